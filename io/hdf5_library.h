#pragma once

// Part of io/hdf5_*.cpp: what they share around the HDF5 library. Nothing else includes this.

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/dtype.h"
#include "runtime/error.h"

namespace halfquad::hdf5 {

using Handle = std::int64_t;  ///< HDF5's hid_t, whose header need not be there for this one.
using Status = int;           ///< HDF5's herr_t.

/// While it lives, this thread has the HDF5 library, which keeps its state in globals, to itself, and HDF5 prints
/// nothing. Not recursive.
class Session {
 public:
  Session();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

 private:
  std::lock_guard<std::mutex> lock_;
  Status (*printer_)(Handle, void*) = nullptr;
  void* printer_data_ = nullptr;
};

/// Throws `code`: "<what>: <the innermost of HDF5's own messages>".
[[noreturn]] void fail(ErrorCode code, const std::string& what, SourceLocation where = SourceLocation::current());

/// Owns one reference to an object of HDF5.
class Id {
 public:
  static constexpr Handle kNone = -1;

  Id() = default;
  explicit Id(Handle id) noexcept : id_(id) {}
  Id(Id&& other) noexcept : id_(other.id_) { other.id_ = kNone; }
  Id& operator=(Id&& other) noexcept;
  ~Id();

  [[nodiscard]] Handle get() const noexcept { return id_; }
  [[nodiscard]] bool valid() const noexcept { return id_ >= 0; }
  /// For the functions that close by kind and report what went wrong then.
  [[nodiscard]] Handle release() noexcept { return std::exchange(id_, kNone); }

 private:
  Handle id_ = kNone;
};

/// Takes `id` over; kInternal naming what was tried when it is not one.
[[nodiscard]] Id own(Handle id, const char* what);
/// kInternal naming what was tried when it failed.
void check(Status status, const char* what);

/// @pre hdf5_stores(dtype).
[[nodiscard]] Id type_of(DType dtype);
/// UTF-8 text of variable length.
[[nodiscard]] Id text_type();

}  // namespace halfquad::hdf5
