#include "sharding/formats/gguf_rows.h"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "kernels/ggml_blocks.h"
#include "sharding/formats/row_format.h"

namespace halfquad {
namespace {

constexpr std::array kWidths = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                CodeWidth::k4, CodeWidth::k5,    CodeWidth::k8};
constexpr std::array<std::int64_t, 0> kAnyGroup = {};

bool is_symmetric(const QuantSpec& spec) { return spec.zeros == ZeroKind::kSymmetric; }

GgmlBlock block_of(const QuantSpec& spec) {
  if (spec.width == CodeWidth::k8) return GgmlBlock::kQ8_0;
  if (spec.width == CodeWidth::k5) return is_symmetric(spec) ? GgmlBlock::kQ5_0 : GgmlBlock::kQ5_1;
  return is_symmetric(spec) && spec.width == CodeWidth::k4 ? GgmlBlock::kQ4_0 : GgmlBlock::kQ4_1;
}

std::vector<std::uint16_t> halves(const float* values, std::int64_t count) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(count));
  std::transform(values, values + count, bits.begin(), f32_to_f16);
  return bits;
}

class GgufRowPacker final : public RowPacker {
 public:
  [[nodiscard]] GridForm form(const QuantSpec& spec) const noexcept override {
    if (has_minimum(block_of(spec))) return {GridForm::Second::kOffset, 0};
    return {GridForm::Second::kZero, 0};
  }

  [[nodiscard]] RowCuts cuts(const RowShape& shape) const noexcept override {
    const std::int64_t row_bytes = shape.cols / kGgmlBlockElems * block_bytes_of(block_of(shape.spec));
    return {RowCut::by_rows(shape.rows, static_cast<std::uint64_t>(row_bytes)), {}, {}};
  }

  void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const override {
    const std::int64_t groups = rows.rows * shape.groups_per_row();
    const GgmlBlock kind = block_of(shape.spec);
    const std::vector<std::uint16_t> d = halves(rows.scale, groups);
    const std::vector<std::uint16_t> m = has_minimum(kind) ? halves(rows.second, groups) : std::vector<std::uint16_t>();
    pack_ggml_blocks(kind, {rows.codes, d.data(), m.data(), rows.rows * shape.cols, shape.group_elems()},
                     out.codes.data);
  }

  void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const override {
    const std::int64_t elems = rows.rows * shape.cols;
    const GgmlBlock kind = block_of(shape.spec);
    const std::int64_t repeats = shape.group_elems() / kGgmlBlockElems;
    std::vector<std::uint16_t> d(static_cast<std::size_t>(elems / kGgmlBlockElems));
    std::vector<std::uint16_t> m(d.size());
    unpack_ggml_blocks(kind, in.codes.data, {rows.codes, d.data(), m.data(), elems, kGgmlBlockElems});
    for (std::size_t group = 0; group < d.size() / static_cast<std::size_t>(repeats); ++group) {
      const std::size_t block = group * static_cast<std::size_t>(repeats);
      rows.scale[group] = f16_to_f32(d[block]);
      rows.second[group] = has_minimum(kind) ? f16_to_f32(m[block]) : fixed_zero_of(kind);
    }
  }
};

}  // namespace

const RowPacker& gguf_rows() noexcept {
  static const GgufRowPacker kPacker;
  return kPacker;
}

std::optional<std::string> why_not_gguf_rows(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (auto reason = why_not_rows("gguf", {kWidths, kAnyGroup, /*whole_rows=*/true}, spec, rows, cols)) return reason;
  const std::int64_t group = spec.group_size == 0 ? cols : spec.group_size;
  if (group % kGgmlBlockElems != 0)
    return fmt::format("gguf has blocks of {}, which do not divide groups of {}", kGgmlBlockElems, group);
  if (spec.zeros == ZeroKind::kInteger) return "gguf has no whole zeros but symmetric ones";
  if (is_symmetric(spec) && spec.width != CodeWidth::k4 && spec.width != CodeWidth::k5 && spec.width != CodeWidth::k8) {
    return fmt::format("gguf has no symmetric blocks of {} bits", name_of(spec.width));
  }
  return std::nullopt;
}

const GgmlType& gguf_type_of(const QuantSpec& spec) {
  switch (block_of(spec)) {
    case GgmlBlock::kQ4_0:
      return ggml_type(GgmlTypeId::kQ4_0);
    case GgmlBlock::kQ4_1:
      return ggml_type(GgmlTypeId::kQ4_1);
    case GgmlBlock::kQ5_0:
      return ggml_type(GgmlTypeId::kQ5_0);
    case GgmlBlock::kQ5_1:
      return ggml_type(GgmlTypeId::kQ5_1);
    case GgmlBlock::kQ8_0:
      return ggml_type(GgmlTypeId::kQ8_0);
  }
  return ggml_type(GgmlTypeId::kQ4_1);
}

std::uint32_t gguf_file_type(const QuantSpec& spec) {
  switch (block_of(spec)) {  // llama.cpp's llama_ftype
    case GgmlBlock::kQ4_0:
      return 2;
    case GgmlBlock::kQ4_1:
      return 3;
    case GgmlBlock::kQ5_0:
      return 8;
    case GgmlBlock::kQ5_1:
      return 9;
    case GgmlBlock::kQ8_0:
      return 7;
  }
  return 3;
}

}  // namespace halfquad
