#include "runtime/dtype.h"

#include <array>
#include <cstddef>

#include "runtime/check.h"

namespace halfquad {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int bits;
};

// In the order of the enum, which row_of() relies on.
constexpr std::array kTable{
    DTypeRow{DType::kBool, "BOOL", 8},
    DTypeRow{DType::kF4, "F4", 4},
    DTypeRow{DType::kF6E2M3, "F6_E2M3", 6},
    DTypeRow{DType::kF6E3M2, "F6_E3M2", 6},
    DTypeRow{DType::kU8, "U8", 8},
    DTypeRow{DType::kI8, "I8", 8},
    DTypeRow{DType::kF8E5M2, "F8_E5M2", 8},
    DTypeRow{DType::kF8E4M3, "F8_E4M3", 8},
    DTypeRow{DType::kF8E8M0, "F8_E8M0", 8},
    DTypeRow{DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    DTypeRow{DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    DTypeRow{DType::kI16, "I16", 16},
    DTypeRow{DType::kU16, "U16", 16},
    DTypeRow{DType::kF16, "F16", 16},
    DTypeRow{DType::kBF16, "BF16", 16},
    DTypeRow{DType::kI32, "I32", 32},
    DTypeRow{DType::kU32, "U32", 32},
    DTypeRow{DType::kF32, "F32", 32},
    DTypeRow{DType::kC64, "C64", 64},
    DTypeRow{DType::kF64, "F64", 64},
    DTypeRow{DType::kI64, "I64", 64},
    DTypeRow{DType::kU64, "U64", 64},
};

constexpr bool table_follows_enum() {
  for (std::size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<std::size_t>(kTable[i].dtype) != i) return false;
  }
  return kTable.back().dtype == DType::kU64;
}
static_assert(table_follows_enum());

const DTypeRow& row_of(DType dtype) noexcept { return kTable[static_cast<std::size_t>(dtype)]; }

}  // namespace

int bits_of(DType dtype) noexcept { return row_of(dtype).bits; }

std::int64_t bytes_of(DType dtype) noexcept {
  HALFQUAD_DCHECK(row_of(dtype).bits % 8 == 0);
  return row_of(dtype).bits / 8;
}

std::string_view name_of(DType dtype) noexcept { return row_of(dtype).name; }

std::optional<DType> dtype_from_name(std::string_view name) noexcept {
  for (const DTypeRow& row : kTable) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

bool is_float_source(DType dtype) noexcept {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF64;
}

}  // namespace halfquad
