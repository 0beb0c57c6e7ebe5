#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/file_system.h"

namespace halfquad::fuzz {

/// A file that is the fuzzer's input. Ends the process when it is read beyond its end or with too little scratch.
class InputFile final : public ReadFile {
 public:
  explicit InputFile(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    if (offset > bytes_.size() || bytes > bytes_.size() - offset || scratch.size() < bytes + kSlack) std::abort();
    const auto wanted = std::as_bytes(bytes_.subspan(static_cast<std::size_t>(offset), bytes));
    std::copy(wanted.begin(), wanted.end(), scratch.begin());
    return scratch.first(bytes);
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

}  // namespace halfquad::fuzz
