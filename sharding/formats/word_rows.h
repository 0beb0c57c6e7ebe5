#pragma once

#include <optional>

#include "kernels/row_pack.h"
#include "sharding/row_packer.h"

namespace halfquad {

/// Codes in 32-bit words, a scale for each group, and beside it whole zeros in words, or a second value in the scale's
/// dtype: what MLX, compressed-tensors, AWQ and GPTQ have in common.
class WordRows final : public RowPacker {
 public:
  struct Layout {
    WordLayout codes = WordLayout::kRows;
    std::optional<WordLayout> zeros;  ///< Nothing: stored like the scale.
    bool transposed_scales = false;   ///< [groups, rows] instead of [rows, groups].
    GridForm form;
    bool store_symmetric = false;  ///< Zeros are there even when all are the same.
  };
  explicit WordRows(const Layout& layout) : layout_(layout) {}

  [[nodiscard]] GridForm form(const QuantSpec& /*spec*/) const noexcept override { return layout_.form; }
  [[nodiscard]] RowCuts cuts(const RowShape& shape) const noexcept override;
  [[nodiscard]] std::int64_t least_tile_rows() const noexcept override;
  void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const override;
  void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const override;

 private:
  [[nodiscard]] bool has_zeros(const RowShape& shape) const noexcept;

  Layout layout_;
};

/// Scales of some rows in their place: `transposed`, one line for each group of a row, or row by row.
void store_grid(bool transposed, const RowShape& shape, const float* values, std::int64_t rows,
                const LineBytes<std::byte>& out);
void load_grid(bool transposed, const RowShape& shape, const LineBytes<const std::byte>& in, std::int64_t rows,
               float* values);
/// How a tensor of scales is cut.
[[nodiscard]] RowCut grid_cut(bool transposed, const RowShape& shape) noexcept;

/// Rows of a tile of a transposed tensor, so that each of its lines gets a run of bytes worth a write.
inline constexpr std::int64_t kTransposedTileRows = 1024;

}  // namespace halfquad
