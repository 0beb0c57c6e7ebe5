#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace halfquad {

/// A file whose layout is known before its data: the bytes that do not depend on any weight, and where the data of each
/// tensor goes. Whoever has the same headers computes the same image, so any process can write its part of the file.
/// Bytes that are neither fixed nor a tensor's are zero.
struct FileImage {
  /// Headers and whatever else a container wants around the data.
  struct Fixed {
    std::uint64_t offset = 0;
    std::string bytes;
    friend bool operator==(const Fixed&, const Fixed&) = default;
  };
  std::vector<Fixed> fixed;            ///< Ascending and disjoint.
  std::vector<std::uint64_t> offsets;  ///< By tensor: where its data begin in the file.
  std::uint64_t bytes = 0;             ///< Length of the finished file.
  friend bool operator==(const FileImage&, const FileImage&) = default;
};

}  // namespace halfquad
