#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace halfquad {

/// Element types of the safetensors format, under its own names. The order is the format's alignment order,
/// narrowest first, so that sorting by descending value puts the widest types first in a file.
enum class DType : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

/// Bits of one element (F4 is 4, F6 is 6, C64 is 64).
[[nodiscard]] int bits_of(DType dtype) noexcept;

/// Bytes of one element; only for dtypes of whole bytes.
[[nodiscard]] std::int64_t bytes_of(DType dtype) noexcept;

/// The name a safetensors header uses: "BF16", "F8_E4M3", ...
[[nodiscard]] std::string_view name_of(DType dtype) noexcept;

/// The inverse of name_of; nothing for a name the format does not know.
[[nodiscard]] std::optional<DType> dtype_from_name(std::string_view name) noexcept;

/// F32, F16, BF16 or F64: what a solver can decode.
[[nodiscard]] bool is_float_source(DType dtype) noexcept;

}  // namespace halfquad
