#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "io/byte_range.h"
#include "io/checkpoint.h"
#include "io/file_system.h"
#include "runtime/error.h"

namespace halfquad {

/// The weight files of a checkpoint, open for reading. Thread-safe.
class OpenCheckpoint {
 public:
  OpenCheckpoint(FileSystem& fs, const Checkpoint& checkpoint, ReadMode mode);
  /// `files`: as Checkpoint::files().
  explicit OpenCheckpoint(std::vector<std::unique_ptr<ReadFile>> files) : files_(std::move(files)) {}

  /// File number SourceTensor::file.
  [[nodiscard]] ReadFile& file(int index) const { return *files_[static_cast<std::size_t>(index)]; }

  /// Scratch that gather() needs, page-aligned.
  static constexpr std::size_t kScratchBytes = (4 << 20) + ReadFile::kSlack;

  /// Copies `ranges` of `tensor`, back to back, to `out`.
  void gather(const SourceTensor& tensor, std::span<const ByteRange> ranges, std::span<std::byte> scratch,
              std::byte* out) const;

 private:
  std::vector<std::unique_ptr<ReadFile>> files_;
};

/// Scratch in whole pages for one request of `bytes`, as ReadFile::read() wants it.
[[nodiscard]] std::uint64_t scratch_bytes(std::uint64_t bytes) noexcept;

/// Copies `ranges`, which count from `start` in the file, back to back to `out`. `scratch`:
/// OpenCheckpoint::kScratchBytes, page-aligned.
void gather_ranges(ReadFile& file, std::uint64_t start, std::span<const ByteRange> ranges, std::span<std::byte> scratch,
                   std::byte* out);

/// `error`, which names file and offset, with the tensor whose reading met it.
[[nodiscard]] Error while_reading(const SourceTensor& tensor, const Error& error);

}  // namespace halfquad
