#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/dtype.h"

namespace halfquad::test {

/// One tensor of a file that a test writes.
struct TestTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

/// `values` as F32.
[[nodiscard]] TestTensor f32_tensor(std::string name, std::vector<std::int64_t> shape,
                                    const std::vector<float>& values);

/// A tensor of `shape` filled with pseudo-random bytes that depend on its name alone.
[[nodiscard]] TestTensor random_tensor(std::string name, DType dtype, std::vector<std::int64_t> shape);

/// The bytes of a well-formed safetensors file, tensors in the given order. Written without the code under test.
[[nodiscard]] std::string safetensors_bytes(const std::vector<TestTensor>& tensors,
                                            const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// `json` with its 8-byte length in front and `data` behind: for malformed files.
[[nodiscard]] std::string safetensors_raw(std::string_view json, std::string_view data);

void put_safetensors(const std::filesystem::path& path, const std::vector<TestTensor>& tensors,
                     const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

/// The text of an index: {"metadata": ..., "weight_map": tensor -> file}.
[[nodiscard]] std::string index_text(const std::map<std::string, std::string>& weight_map);

}  // namespace halfquad::test
