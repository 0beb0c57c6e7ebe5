#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/dtype.h"

namespace halfquad {

/// Value of an attribute: I32 scalar, I64 [n], UTF-8 text of any length without NUL. Anything else that a file holds
/// is read as monostate and cannot be written.
using Hdf5Value = std::variant<std::monostate, std::int32_t, std::vector<std::int64_t>, std::string>;

struct Hdf5Attribute {
  std::string name;
  Hdf5Value value;
  friend bool operator==(const Hdf5Attribute&, const Hdf5Attribute&) = default;
};

/// A group with attributes. Groups above another object need not be named.
struct Hdf5Group {
  std::string path;
  std::vector<Hdf5Attribute> attributes;
  friend bool operator==(const Hdf5Group&, const Hdf5Group&) = default;
};

struct Hdf5Dataset {
  std::string path;
  DType dtype = DType::kU8;         ///< One that hdf5_stores() knows.
  std::vector<std::int64_t> shape;  ///< [] is a scalar; a 0 makes an empty dataset. At most 32 dimensions.
  std::vector<Hdf5Attribute> attributes;
  std::string content;  ///< Its bytes where they are known beforehand and small (texts), else empty.
  friend bool operator==(const Hdf5Dataset&, const Hdf5Dataset&) = default;
};

/// What an HDF5 file holds, data aside. Paths have no leading slash; their parts are hdf5_name_defect()-free.
struct Hdf5Tree {
  std::vector<Hdf5Attribute> attributes;  ///< Of the root.
  std::vector<Hdf5Group> groups;
  std::vector<Hdf5Dataset> datasets;
  friend bool operator==(const Hdf5Tree&, const Hdf5Tree&) = default;
};

/// Whether HDF5 has this element type itself (little-endian integers of 8 to 64 bits, F16, F32, F64). The bits of
/// others go into an unsigned integer of their width.
[[nodiscard]] bool hdf5_stores(DType dtype) noexcept;

/// Why `name` cannot be the name of a group, dataset or attribute: empty, ".", "..", with a slash, with NUL, not UTF-8,
/// longer than 4096 bytes. Empty when it can.
[[nodiscard]] std::string_view hdf5_name_defect(std::string_view name) noexcept;

/// As hdf5_name_defect(), for every part of a path; the path itself must not be empty.
[[nodiscard]] std::string_view hdf5_path_defect(std::string_view path) noexcept;

}  // namespace halfquad
