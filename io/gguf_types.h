#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace halfquad {

/// The types of a value in a GGUF header, by their number in the file.
enum class GgufType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// An array of one type; index() is the GgufType of its elements. Arrays of arrays do not exist.
using GgufArray = std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                               std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                               std::vector<float>, std::vector<bool>, std::vector<std::string>, std::monostate,
                               std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;

/// A value of a GGUF header; index() is its GgufType.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t,
                               float, bool, std::string, GgufArray, std::uint64_t, std::int64_t, double>;

/// "u32", "string", ...
[[nodiscard]] std::string_view gguf_type_name(GgufType type);

/// How ggml stores the elements of one kind of tensor: rows of blocks that each hold `block_elements` consecutive
/// elements in `block_bytes` bytes.
struct GgmlType {
  std::uint32_t id = 0;
  std::string_view name;
  std::int64_t block_elements = 1;
  std::int64_t block_bytes = 1;
};

/// Ids of the types that halfquad reads or writes the elements of.
enum class GgmlTypeId : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
  kMXFP4 = 39,
  kNVFP4 = 40,
};

/// Every type a file of today may hold, by id.
[[nodiscard]] std::span<const GgmlType> ggml_types();

/// Nothing for an id that was never given or whose type was taken back.
[[nodiscard]] const GgmlType* find_ggml_type(std::uint32_t id);

[[nodiscard]] const GgmlType& ggml_type(GgmlTypeId id);

/// Bytes of a tensor with dimensions `dims`, innermost first; nothing when dims[0] is no multiple of the block, a
/// dimension is negative, or the bytes do not fit 63 bits. Without dimensions: one element.
[[nodiscard]] std::optional<std::uint64_t> ggml_bytes(const GgmlType& type, std::span<const std::int64_t> dims);

}  // namespace halfquad
