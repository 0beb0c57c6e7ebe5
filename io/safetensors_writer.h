#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "io/safetensors_header.h"
#include "runtime/stop_flag.h"

namespace halfquad {

struct AttachOptions {
  WriteMode mode = WriteMode::kDirect;
  /// How long to wait for a file that another machine created to appear here.
  std::chrono::milliseconds patience{30'000};
  const StopFlag* stop = nullptr;  ///< Ends the wait (kInterrupted).
};

/// One safetensors file whose header is on disk before its data: tensors are written in pieces, in any order, from any
/// thread, at their final offsets.
class SafetensorsWriter {
 public:
  /// Creates the file, reserves its whole length and writes the header.
  SafetensorsWriter(FileSystem& fs, const std::filesystem::path& path, std::vector<TensorEntry> tensors,
                    const std::map<std::string, std::string>& metadata, WriteMode mode = WriteMode::kDirect);

  /// Joins in writing a file that another rank, or an earlier run, has created: it must have the length and the header
  /// that this job would give it, and nothing is written here. Waits while it is missing, short or without a header, as
  /// it is for a while on a network file system; then throws kIo. Another header or a longer file is kBadInput at once.
  /// @pre the creating rank's sync() returned.
  [[nodiscard]] static SafetensorsWriter attach(FileSystem& fs, const std::filesystem::path& path,
                                                std::vector<TensorEntry> tensors,
                                                const std::map<std::string, std::string>& metadata,
                                                const AttachOptions& options = {});

  /// `data` at `offset` bytes into tensor number `tensor` (index into tensors()).
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data);
  /// Returns once everything whose write() had returned is on stable storage; others may write meanwhile.
  void sync();
  /// Syncs and closes. The file is complete when every byte was written before.
  void finish();

  [[nodiscard]] std::span<const TensorEntry> tensors() const noexcept { return tensors_; }
  /// Where tensor number `tensor` begins in the file.
  [[nodiscard]] std::uint64_t file_offset(std::size_t tensor) const { return data_start_ + tensors_[tensor].begin; }
  [[nodiscard]] std::uint64_t file_bytes() const noexcept { return data_start_ + data_bytes_; }

 private:
  SafetensorsWriter() = default;
  /// Takes the tensors and gives back the file's bytes before the data.
  [[nodiscard]] std::string lay_out(std::vector<TensorEntry> tensors,
                                    const std::map<std::string, std::string>& metadata);

  std::vector<TensorEntry> tensors_;
  std::uint64_t data_start_ = 0;
  std::uint64_t data_bytes_ = 0;
  std::unique_ptr<WriteFile> file_;
};

}  // namespace halfquad
