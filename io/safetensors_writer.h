#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "io/safetensors_header.h"

namespace halfquad {

/// One safetensors file whose header is on disk before its data: tensors are written in pieces, in any order, from any
/// thread, at their final offsets.
class SafetensorsWriter {
 public:
  /// Creates the file, reserves its whole length and writes the header.
  SafetensorsWriter(FileSystem& fs, const std::filesystem::path& path, std::vector<TensorEntry> tensors,
                    const std::map<std::string, std::string>& metadata, WriteMode mode = WriteMode::kDirect);

  /// `data` at `offset` bytes into tensor number `tensor` (index into tensors()).
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data);
  /// Syncs and closes. The file is complete when every byte was written before.
  void finish();

  [[nodiscard]] std::span<const TensorEntry> tensors() const noexcept { return tensors_; }
  /// Where tensor number `tensor` begins in the file.
  [[nodiscard]] std::uint64_t file_offset(std::size_t tensor) const { return data_start_ + tensors_[tensor].begin; }
  [[nodiscard]] std::uint64_t file_bytes() const noexcept { return data_start_ + data_bytes_; }

 private:
  std::vector<TensorEntry> tensors_;
  std::uint64_t data_start_ = 0;
  std::uint64_t data_bytes_ = 0;
  std::unique_ptr<WriteFile> file_;
};

}  // namespace halfquad
