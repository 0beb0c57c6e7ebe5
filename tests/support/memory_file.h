#pragma once

#include <cstddef>
#include <string>

#include "io/file_image.h"
#include "io/memory_read_file.h"

namespace halfquad::test {

/// The whole file of an image whose tensors are all zeros.
[[nodiscard]] inline std::string bytes_of(const FileImage& image) {
  std::string out(image.bytes, '\0');
  for (const FileImage::Fixed& fixed : image.fixed) {
    out.replace(static_cast<std::size_t>(fixed.offset), fixed.bytes.size(), fixed.bytes);
  }
  return out;
}

}  // namespace halfquad::test
