#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "io/file_system.h"
#include "runtime/error.h"

namespace halfquad {

/// A file whose bytes are in memory.
class MemoryReadFile final : public ReadFile {
 public:
  explicit MemoryReadFile(std::shared_ptr<const std::string> bytes) : bytes_(std::move(bytes)) {}
  explicit MemoryReadFile(std::string bytes) : bytes_(std::make_shared<const std::string>(std::move(bytes))) {}

  [[nodiscard]] std::uint64_t size() const override { return bytes_->size(); }
  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    if (offset > size() || bytes > size() - offset) throw Error(ErrorCode::kIo, "short file");
    std::ranges::copy(std::as_bytes(std::span(*bytes_)).subspan(offset, bytes), scratch.begin());
    return scratch.first(bytes);
  }

 private:
  std::shared_ptr<const std::string> bytes_;
};

}  // namespace halfquad
