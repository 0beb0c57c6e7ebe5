#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "io/file_image.h"
#include "io/file_system.h"
#include "runtime/error.h"

namespace halfquad::test {

/// A file whose bytes are in memory.
class MemoryReadFile final : public ReadFile {
 public:
  explicit MemoryReadFile(std::string bytes) : bytes_(std::move(bytes)) {}

  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    if (offset > bytes_.size() || bytes > bytes_.size() - offset) throw Error(ErrorCode::kIo, "short file");
    std::ranges::copy(std::as_bytes(std::span(bytes_)).subspan(offset, bytes), scratch.begin());
    return scratch.first(bytes);
  }

 private:
  std::string bytes_;
};

/// The whole file of an image whose tensors are all zeros.
[[nodiscard]] inline std::string bytes_of(const FileImage& image) {
  std::string out(image.bytes, '\0');
  for (const FileImage::Fixed& fixed : image.fixed) {
    out.replace(static_cast<std::size_t>(fixed.offset), fixed.bytes.size(), fixed.bytes);
  }
  return out;
}

}  // namespace halfquad::test
