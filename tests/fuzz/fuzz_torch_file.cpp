#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/torch_file.h"
#include "runtime/error.h"
#include "tests/fuzz/input_file.h"

/// Either kBadInput, or tensors whose bytes lie in the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  halfquad::fuzz::InputFile file({data, size});
  try {
    for (const halfquad::TorchTensor& tensor : halfquad::read_torch_file(file, "input").tensors) {
      if (tensor.offset > size || tensor.bytes > size - tensor.offset) std::abort();
    }
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
