#include "sharding/formats/gguf_rows.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "kernels/float_grid.h"
#include "kernels/ggml_blocks.h"
#include "kernels/ggml_k_quants.h"
#include "sharding/block_type.h"
#include "sharding/formats/row_format.h"

namespace halfquad {
namespace {

constexpr std::array kWidths = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};
constexpr std::array<std::int64_t, 0> kAnyGroup = {};
constexpr std::array kGrids = {FloatGrid::kMxfp4, FloatGrid::kNvfp4};

constexpr std::array<std::pair<GgmlTypeId, GgmlBlock>, 5> kBlocks = {{{GgmlTypeId::kQ4_0, GgmlBlock::kQ4_0},
                                                                      {GgmlTypeId::kQ4_1, GgmlBlock::kQ4_1},
                                                                      {GgmlTypeId::kQ5_0, GgmlBlock::kQ5_0},
                                                                      {GgmlTypeId::kQ5_1, GgmlBlock::kQ5_1},
                                                                      {GgmlTypeId::kQ8_0, GgmlBlock::kQ8_0}}};
constexpr std::array<std::pair<GgmlTypeId, GgmlKQuant>, 5> kSuperBlocks = {{{GgmlTypeId::kQ2_K, GgmlKQuant::kQ2_K},
                                                                            {GgmlTypeId::kQ3_K, GgmlKQuant::kQ3_K},
                                                                            {GgmlTypeId::kQ4_K, GgmlKQuant::kQ4_K},
                                                                            {GgmlTypeId::kQ5_K, GgmlKQuant::kQ5_K},
                                                                            {GgmlTypeId::kQ6_K, GgmlKQuant::kQ6_K}}};

/// The entry of one of these tables for a layer's type, which is in it.
template <class Table>
auto kind_in(const Table& table, const QuantSpec& spec) {
  const GgmlTypeId id = block_type_of(spec)->id;
  return std::ranges::find_if(table, [id](const auto& entry) { return entry.first == id; })->second;
}

GgmlBlock block_of(const QuantSpec& spec) { return kind_in(kBlocks, spec); }
GgmlKQuant super_block_of(const QuantSpec& spec) { return kind_in(kSuperBlocks, spec); }

const GgmlKQuantizer& k_quantizer() {
  static const std::unique_ptr<GgmlKQuantizer> kQuantizer = make_k_quantizer();
  return *kQuantizer;
}

std::vector<std::uint16_t> halves(const float* values, std::int64_t count) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(count));
  std::transform(values, values + count, bits.begin(), f32_to_f16);
  return bits;
}

class GgufRowPacker final : public RowPacker {
 public:
  [[nodiscard]] GridForm form(const QuantSpec& spec) const noexcept override {
    if (spec.grid != FloatGrid::kNone) return {GridForm::Second::kZero, 0};
    if (spec.super_blocks ? spec.zeros == ZeroKind::kFloat : has_minimum(block_of(spec)))
      return {GridForm::Second::kOffset, 0};
    return {GridForm::Second::kZero, 0};
  }

  [[nodiscard]] RowCuts cuts(const RowShape& shape) const noexcept override {
    const GgmlType& type = gguf_type_of(shape.spec);
    const std::int64_t row_bytes = shape.cols / type.block_elements * type.block_bytes;
    return {RowCut::by_rows(shape.rows, static_cast<std::uint64_t>(row_bytes)), {}, {}};
  }

  void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const override {
    const std::int64_t groups = rows.rows * shape.groups_per_row();
    if (shape.spec.grid != FloatGrid::kNone) {
      pack_ggml_floats({shape.spec.grid, groups, shape.tensor_scale}, {rows.codes, rows.scale}, out.codes.data);
      return;
    }
    const GgmlBlock kind = block_of(shape.spec);
    const std::vector<std::uint16_t> d = halves(rows.scale, groups);
    const std::vector<std::uint16_t> m = has_minimum(kind) ? halves(rows.second, groups) : std::vector<std::uint16_t>();
    pack_ggml_blocks(kind, {rows.codes, d.data(), m.data(), rows.rows * shape.cols, shape.group_elems()},
                     out.codes.data);
  }

  void search(const RowShape& shape, std::span<const float> weights, const float* importance,
              const RowPlaces<std::byte>& out, ErrorSums& errors) const override {
    const GgmlKQuant kind = super_block_of(shape.spec);
    const auto count = static_cast<std::int64_t>(weights.size());
    const ColumnWeights columns{importance, shape.cols, 0};
    k_quantizer().quantize(kind, weights.data(), count, columns, out.codes.data);
    std::vector<float> restored(weights.size());
    dequantize_k_quants(kind, out.codes.data, count, restored.data());
    measure_k_quants(weights.data(), restored.data(), count, columns, errors);
  }

  void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const override {
    if (shape.spec.super_blocks) return unpack_super_blocks(shape, in, rows);
    if (shape.spec.grid != FloatGrid::kNone) {
      const std::int64_t groups = rows.rows * shape.groups_per_row();
      unpack_ggml_floats({shape.spec.grid, groups, shape.tensor_scale}, in.codes.data, {rows.codes, rows.scale});
      std::fill_n(rows.second, groups, static_cast<float>(kFloatCodeZero));
      return;
    }
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

 private:
  static void unpack_super_blocks(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) {
    const GgmlKQuant kind = super_block_of(shape.spec);
    const std::int64_t group = shape.group_elems();
    unpack_k_quants(kind, in.codes.data, rows.rows * shape.cols, rows.codes, rows.scale, rows.second);
    const bool has_minima = shape.spec.zeros == ZeroKind::kFloat;
    const auto middle = static_cast<std::uint8_t>((qmax(shape.spec.width) + 1) / 2);
    for (std::int64_t i = 0; i < rows.rows * shape.groups_per_row(); ++i) {
      float& scale = rows.scale[i];
      rows.second[i] = has_minima ? -rows.second[i] : static_cast<float>(middle);
      if (scale != 0) continue;
      // Codes mean nothing here: all weights are the offset, which only a grid with a scale can say.
      std::fill_n(rows.codes + i * group, group, has_minima ? std::uint8_t{0} : middle);
      scale = 1;
    }
  }
};

}  // namespace

const RowPacker& gguf_rows() noexcept {
  static const GgufRowPacker kPacker;
  return kPacker;
}

std::optional<std::string> why_not_gguf_rows(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  const RowLimits limits{kWidths, kAnyGroup, /*whole_rows=*/true, /*super_blocks=*/true, kGrids};
  if (auto reason = why_not_rows("gguf", limits, spec, rows, cols)) return reason;
  if (spec.grid != FloatGrid::kNone) {
    const std::int64_t block = gguf_type_of(spec).block_elements;
    if (cols % block == 0) return std::nullopt;
    return fmt::format("{}'s blocks of {} do not divide rows of {} weights", gguf_type_of(spec).name, block, cols);
  }
  const std::int64_t group = spec.group_size == 0 ? cols : spec.group_size;
  if (spec.zeros == ZeroKind::kInteger) return "gguf has no whole zeros but symmetric ones";
  const BlockType* type = block_type_of(spec);
  if (spec.super_blocks) {
    if (type == nullptr) return fmt::format("gguf has no super-blocks of {} bits", name_of(spec.width));
    if (cols % kGgmlSuperBlock == 0) return std::nullopt;
    return fmt::format("super-blocks of {} do not divide rows of {} weights", kGgmlSuperBlock, cols);
  }
  if (group % kGgmlBlockElems != 0)
    return fmt::format("gguf has blocks of {}, which do not divide groups of {}", kGgmlBlockElems, group);
  if (spec.width == CodeWidth::k6) return "gguf has 6-bit codes in super-blocks only: give --type Q6_K";
  const bool is_symmetric = spec.zeros == ZeroKind::kSymmetric;
  if (is_symmetric && spec.width != CodeWidth::k4 && spec.width != CodeWidth::k5 && spec.width != CodeWidth::k8) {
    return fmt::format("gguf has no symmetric blocks of {} bits", name_of(spec.width));
  }
  return std::nullopt;
}

const GgmlType& gguf_type_of(const QuantSpec& spec) { return ggml_type(block_type_of(spec)->id); }

}  // namespace halfquad
