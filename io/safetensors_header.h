#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_image.h"
#include "io/file_system.h"
#include "runtime/dtype.h"

namespace halfquad {

/// One tensor as a safetensors header declares it.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  ///< [] is a scalar; a 0 makes an empty tensor.
  std::uint64_t begin = 0;          ///< Bytes from the start of the data section.
  std::uint64_t end = 0;

  [[nodiscard]] std::uint64_t bytes() const noexcept { return end - begin; }
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;             ///< By `begin`, then `end`, then name.
  std::map<std::string, std::string> metadata;  ///< `__metadata__`.
  std::uint64_t data_start = 0;                 ///< File offset of the data section (8 + header length).
};

/// Largest header accepted: the reference reader's limit.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

/// Number of elements of `shape`; nothing when negative or beyond 63 bits.
[[nodiscard]] std::optional<std::int64_t> element_count(std::span<const std::int64_t> shape);

/// Parses and checks the JSON of a header whose data section must be exactly `data_bytes` long. As strict as the
/// reference reader (contiguous from 0, sizes match shapes, no trailing bytes) and stricter: duplicate names, empty
/// names, NUL or invalid UTF-8, a first byte other than '{', trailing text other than spaces. Throws kBadInput naming
/// `file`, the tensor, and the byte offset.
[[nodiscard]] SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_bytes,
                                                         std::string_view file);

/// The JSON text of an open file's header; the claimed length is checked against the file and the limit before any
/// allocation.
[[nodiscard]] std::string read_safetensors_header_json(ReadFile& file, std::string_view name);

/// Reads, parses and checks the header of an open file.
[[nodiscard]] SafetensorsHeader read_safetensors_header(ReadFile& file, std::string_view name);

/// How many bytes serialize_safetensors_header() would make, were there no limit.
[[nodiscard]] std::uint64_t safetensors_header_bytes(std::span<const TensorEntry> tensors,
                                                     const std::map<std::string, std::string>& metadata);

/// The bytes before the data section: 8-byte length, JSON in the order of `tensors`, spaces up to a multiple of 8.
/// @pre begin/end contiguous from 0 in the given order.
[[nodiscard]] std::string serialize_safetensors_header(std::span<const TensorEntry> tensors,
                                                       const std::map<std::string, std::string>& metadata);
/// The image of a whole file. @pre as above.
[[nodiscard]] FileImage safetensors_image(std::span<const TensorEntry> tensors,
                                          const std::map<std::string, std::string>& metadata);

}  // namespace halfquad
