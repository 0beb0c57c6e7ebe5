#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/gguf.h"
#include "tests/support/memory_file.h"

namespace halfquad::test {

/// A tensor of a GGUF file under test.
struct GgufFileTensor {
  std::string name;
  std::vector<std::int64_t> dims;  ///< Innermost first.
  GgmlTypeId type = GgmlTypeId::kF32;
  std::string data = {};  ///< Empty: zeros.
};

/// The bytes of a GGUF file.
[[nodiscard]] inline std::string gguf_file(const std::vector<GgufKey>& keys,
                                           const std::vector<GgufFileTensor>& tensors) {
  GgufHeader header;
  header.keys = keys;
  if (const GgufValue* alignment = header.find(kGgufAlignmentKey)) {
    header.alignment = std::get<std::uint32_t>(*alignment);
  }
  for (const GgufFileTensor& tensor : tensors) {
    header.tensors.push_back({tensor.name, tensor.dims, ggml_type(tensor.type).id, 0});
  }
  const FileImage image = gguf_image(header);
  std::string bytes = bytes_of(image);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    bytes.replace(image.offsets[i], tensors[i].data.size(), tensors[i].data);
  }
  return bytes;
}

}  // namespace halfquad::test
