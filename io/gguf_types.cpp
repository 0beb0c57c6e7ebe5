#include "io/gguf_types.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "runtime/check.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr std::array kTypeNames = {std::string_view("u8"),    std::string_view("i8"),   std::string_view("u16"),
                                   std::string_view("i16"),   std::string_view("u32"),  std::string_view("i32"),
                                   std::string_view("f32"),   std::string_view("bool"), std::string_view("string"),
                                   std::string_view("array"), std::string_view("u64"),  std::string_view("i64"),
                                   std::string_view("f64")};

static_assert(std::variant_size_v<GgufValue> == kTypeNames.size());
static_assert(std::variant_size_v<GgufArray> == kTypeNames.size());

constexpr std::array kGgmlTypes = {
    GgmlType{0, "F32", 1, 4},         GgmlType{1, "F16", 1, 2},         GgmlType{2, "Q4_0", 32, 18},
    GgmlType{3, "Q4_1", 32, 20},      GgmlType{6, "Q5_0", 32, 22},      GgmlType{7, "Q5_1", 32, 24},
    GgmlType{8, "Q8_0", 32, 34},      GgmlType{9, "Q8_1", 32, 36},      GgmlType{10, "Q2_K", 256, 84},
    GgmlType{11, "Q3_K", 256, 110},   GgmlType{12, "Q4_K", 256, 144},   GgmlType{13, "Q5_K", 256, 176},
    GgmlType{14, "Q6_K", 256, 210},   GgmlType{15, "Q8_K", 256, 292},   GgmlType{16, "IQ2_XXS", 256, 66},
    GgmlType{17, "IQ2_XS", 256, 74},  GgmlType{18, "IQ3_XXS", 256, 98}, GgmlType{19, "IQ1_S", 256, 50},
    GgmlType{20, "IQ4_NL", 32, 18},   GgmlType{21, "IQ3_S", 256, 110},  GgmlType{22, "IQ2_S", 256, 82},
    GgmlType{23, "IQ4_XS", 256, 136}, GgmlType{24, "I8", 1, 1},         GgmlType{25, "I16", 1, 2},
    GgmlType{26, "I32", 1, 4},        GgmlType{27, "I64", 1, 8},        GgmlType{28, "F64", 1, 8},
    GgmlType{29, "IQ1_M", 256, 56},   GgmlType{30, "BF16", 1, 2},       GgmlType{34, "TQ1_0", 256, 54},
    GgmlType{35, "TQ2_0", 256, 66},   GgmlType{39, "MXFP4", 32, 17},    GgmlType{40, "NVFP4", 64, 36},
    GgmlType{41, "Q1_0", 128, 18},    GgmlType{42, "Q2_0", 64, 18},
};

}  // namespace

std::string_view gguf_type_name(GgufType type) { return kTypeNames.at(static_cast<std::size_t>(type)); }

std::span<const GgmlType> ggml_types() { return kGgmlTypes; }

const GgmlType* find_ggml_type(std::uint32_t id) {
  const auto found = std::find_if(kGgmlTypes.begin(), kGgmlTypes.end(), [&](const GgmlType& t) { return t.id == id; });
  return found == kGgmlTypes.end() ? nullptr : &*found;
}

const GgmlType& ggml_type(GgmlTypeId id) {
  const GgmlType* type = find_ggml_type(static_cast<std::uint32_t>(id));
  HALFQUAD_REQUIRE(type != nullptr, kInternal, "a ggml type is missing from the table");
  return *type;
}

std::optional<std::uint64_t> ggml_bytes(const GgmlType& type, std::span<const std::int64_t> dims) {
  const std::int64_t row = dims.empty() ? 1 : dims.front();
  if (row % type.block_elements != 0) return std::nullopt;
  if (std::any_of(dims.begin(), dims.end(), [](std::int64_t dim) { return dim < 0; })) return std::nullopt;
  // Dimensions of 0 do not make up for others that no product in any order can hold.
  constexpr std::int64_t kLeast = 1;
  std::optional<std::int64_t> bytes = checked_mul(std::max(kLeast, row / type.block_elements), type.block_bytes);
  for (std::size_t i = 1; bytes && i < dims.size(); ++i) bytes = checked_mul(*bytes, std::max(kLeast, dims[i]));
  if (!bytes) return std::nullopt;
  const bool is_empty = std::find(dims.begin(), dims.end(), 0) != dims.end();
  return is_empty ? 0 : static_cast<std::uint64_t>(*bytes);
}

}  // namespace halfquad
