#pragma once

// Part of io/hdf5_*.cpp: a file that HDF5 reads through ours. Nothing else includes this.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <string_view>

#include "io/file_system.h"
#include "io/hdf5_library.h"

namespace halfquad::hdf5 {

/// Reads for HDF5. Some structures are checked here because HDF5 1.10 takes them on trust and would read what is not
/// there.
class Source {
 public:
  Source(ReadFile& file, std::string_view name) : file_(&file), name_(name) {}

  [[nodiscard]] std::uint64_t size() const { return file_->size(); }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Throws kBadInput when the file is shorter.
  void read(std::uint64_t at, std::span<std::byte> into);
  /// Signature, versions, flags and lengths of the superblock, which HDF5 is lenient about.
  void check_superblock();
  /// The collection of texts at `at`: HDF5 follows numbers into it without looking whether they are there.
  void check_heap(std::uint64_t at);

  /// For the driver, which cannot throw through HDF5.
  void keep(std::exception_ptr error) noexcept { error_ = std::move(error); }
  /// Throws what was kept, if anything.
  void rethrow() const;

 private:
  [[noreturn]] void refuse(const std::string& why) const;
  [[nodiscard]] std::uint64_t number(std::uint64_t at);

  ReadFile* file_;
  std::string name_;
  std::exception_ptr error_;
};

/// Registers the file driver that reads from a Source, and makes `access` (a file access property list) use it for
/// `source`. The result and `source` must outlive the file.
[[nodiscard]] Id use_source_driver(const Id& access, Source& source);

}  // namespace halfquad::hdf5
