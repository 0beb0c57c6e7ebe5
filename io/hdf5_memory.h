#pragma once

// Part of io/hdf5_*.cpp: a file that exists only as far as HDF5 writes it. Nothing else includes this.

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "io/byte_range.h"
#include "io/file_image.h"
#include "io/hdf5_library.h"

namespace halfquad::hdf5 {

/// The bytes of a file of any length of which little is written.
class SparseBytes {
 public:
  void write(std::uint64_t at, std::span<const std::byte> bytes);
  /// Zero where nothing was written.
  void read(std::uint64_t at, std::span<std::byte> into) const;
  void set_length(std::uint64_t length) noexcept { length_ = length; }
  [[nodiscard]] std::uint64_t length() const noexcept { return length_; }

  /// What was written below length() and outside of `holes`, with the zeros of at most a page around it, in pieces
  /// of at most 1 MiB. Frees memory as it goes; nothing is left here.
  /// @pre holes ascend and are disjoint.
  [[nodiscard]] std::vector<FileImage::Fixed> take(std::span<const ByteRange> holes);

 private:
  static constexpr std::size_t kPage = 16'384;
  using Page = std::array<std::byte, kPage>;

  std::map<std::uint64_t, std::unique_ptr<Page>> pages_;  // by page number
  std::uint64_t length_ = 0;
};

/// Registers the file driver that writes to a SparseBytes, and makes `access` (a file access property list) use it for
/// `bytes`, which must outlive the file. The result must outlive the file, too.
[[nodiscard]] Id use_memory_driver(const Id& access, SparseBytes& bytes);

}  // namespace halfquad::hdf5
