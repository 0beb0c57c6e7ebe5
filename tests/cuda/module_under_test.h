#pragma once

#include <cstdlib>
#include <filesystem>

namespace halfquad::test {

/// The module that was built with the test; where both were carried elsewhere, what HALFQUAD_CUDA_MODULE names.
inline std::filesystem::path module_under_test() {
  const char* const named = std::getenv("HALFQUAD_CUDA_MODULE");
  return named != nullptr ? named : HALFQUAD_TEST_CUDA_MODULE;
}

}  // namespace halfquad::test
