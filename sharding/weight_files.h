#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "io/image_writer.h"
#include "sharding/output_layout.h"
#include "sharding/output_piece.h"
#include "sharding/write_combiner.h"

namespace halfquad {

/// Where a pipeline's results go.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  /// The pieces of one item, all of one file. Returns when their bytes are needed no more. Thread-safe.
  virtual void write(std::span<const OutputPiece> pieces) = 0;
};

/// The weight files of an output, open for writing.
class WeightFiles final : public OutputSink {
 public:
  /// Creates them in `folder`, at their full length and with their headers, and writes what is known without reading
  /// any weight.
  WeightFiles(FileSystem& fs, const std::filesystem::path& folder, const OutputLayout& layout, WriteMode mode);
  /// Joins in writing files that another rank, or an earlier run, created: see ImageWriter::attach().
  WeightFiles(FileSystem& fs, const std::filesystem::path& folder, const OutputLayout& layout,
              const AttachOptions& options);

  /// From now on holds tiles of transposed tensors in up to `budget_bytes` and writes them together (WriteCombiner);
  /// less than that takes is no memory at all. @pre nothing is being written.
  void combine(std::uint64_t budget_bytes);
  /// The most of that in use so far. Bytes.
  [[nodiscard]] std::uint64_t combining_peak_bytes() const { return combiner_ ? combiner_->peak_bytes() : 0; }
  void write(std::span<const OutputPiece> pieces) override;
  void write_constants();
  /// Returns once everything whose write() had returned is on stable storage; others may write meanwhile.
  void sync();
  /// Syncs and closes. The files are complete when every byte was written before.
  void finish();

 private:
  struct File {
    explicit File(ImageWriter opened) : writer(std::move(opened)) {}
    ImageWriter writer;
    std::atomic<bool> unsynced{true};
  };

  void write_at(std::size_t entry, std::uint64_t offset, std::span<const std::byte> data);

  const OutputLayout& layout_;
  std::deque<File> files_;  // like OutputLayout::files()
  std::optional<WriteCombiner> combiner_;
};

}  // namespace halfquad
