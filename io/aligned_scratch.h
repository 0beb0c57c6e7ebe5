#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "io/file_system.h"

namespace halfquad {

/// Memory that ReadFile::read accepts as scratch for up to `bytes` bytes; for small things outside the buffer pool.
class AlignedScratch {
 public:
  explicit AlignedScratch(std::size_t bytes)
      : storage_(std::make_unique_for_overwrite<std::byte[]>(bytes + ReadFile::kSlack + kAlignment)),
        size_(bytes + ReadFile::kSlack) {}

  [[nodiscard]] std::span<std::byte> bytes() const noexcept {
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(storage_.get()) % kAlignment;
    return {storage_.get() + (misaligned == 0 ? 0 : kAlignment - misaligned), size_};
  }

 private:
  static constexpr std::size_t kAlignment = 4096;

  std::unique_ptr<std::byte[]> storage_;
  std::size_t size_;
};

}  // namespace halfquad
