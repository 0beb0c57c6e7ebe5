#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/file_image.h"
#include "io/file_system.h"
#include "runtime/stop_flag.h"

namespace halfquad {

struct AttachOptions {
  WriteMode mode = WriteMode::kDirect;
  /// How long to wait for a file that another machine created to appear here.
  std::chrono::milliseconds patience{30'000};
  const StopFlag* stop = nullptr;  ///< Ends the wait (kInterrupted).
};

/// One file whose image is on disk before its data: tensors are written in pieces, in any order, from any thread, at
/// their final offsets.
class ImageWriter {
 public:
  /// What is written into: name and size of each tensor of the image.
  struct Slot {
    std::string name;
    std::uint64_t bytes = 0;
  };

  /// Creates the file, reserves its whole length and writes what is fixed. `slots`: one for each of image.offsets.
  ImageWriter(FileSystem& fs, const std::filesystem::path& path, FileImage image, std::vector<Slot> slots,
              WriteMode mode = WriteMode::kDirect);
  /// Joins in writing a file that another rank, or an earlier run, has created: it must have the length and the fixed
  /// bytes that this job would give it, and nothing is written here. Waits while it is missing, short or blank, as it
  /// is for a while on a network file system; then throws kIo. Other bytes or a longer file are kBadInput at once.
  /// @pre the creating rank's sync() returned.
  [[nodiscard]] static ImageWriter attach(FileSystem& fs, const std::filesystem::path& path, FileImage image,
                                          std::vector<Slot> slots, const AttachOptions& options = {});

  /// `data` at `offset` bytes into tensor number `tensor`.
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data);
  /// Returns once everything whose write() had returned is on stable storage; others may write meanwhile.
  void sync();
  /// Syncs and closes. The file is complete when every byte was written before.
  void finish();

  /// Where tensor number `tensor` begins in the file.
  [[nodiscard]] std::uint64_t file_offset(std::size_t tensor) const { return image_.offsets[tensor]; }
  [[nodiscard]] std::uint64_t file_bytes() const noexcept { return image_.bytes; }

 private:
  ImageWriter(FileImage image, std::vector<Slot> slots);

  FileImage image_;
  std::vector<Slot> slots_;
  std::unique_ptr<WriteFile> file_;
};

}  // namespace halfquad
