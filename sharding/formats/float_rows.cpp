#include "sharding/formats/float_rows.h"

#include <algorithm>

#include "kernels/float_grid.h"

namespace halfquad {

DType scale_dtype(FloatGrid grid) noexcept { return grid == FloatGrid::kNvfp4 ? DType::kF8E4M3 : DType::kU8; }

RowCuts FloatRows::cuts(const RowShape& shape) const noexcept {
  return {RowCut::by_rows(shape.rows, static_cast<std::uint64_t>(shape.cols / 2)),
          RowCut::by_rows(shape.rows, static_cast<std::uint64_t>(shape.groups_per_row())),
          {}};
}

void FloatRows::pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const {
  pack_e2m1(rows.codes, rows.rows * shape.cols, out.codes.data);
  std::transform(rows.scale, rows.scale + rows.rows * shape.groups_per_row(), out.scale.data, [&](float scale) {
    return static_cast<std::byte>(scale_byte_of(shape.spec.grid, scale, shape.tensor_scale));
  });
}

void FloatRows::unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const {
  const std::int64_t groups = rows.rows * shape.groups_per_row();
  unpack_e2m1(in.codes.data, rows.rows * shape.cols, rows.codes);
  std::transform(in.scale.data, in.scale.data + groups, rows.scale, [&](std::byte byte) {
    return group_scale_of(shape.spec.grid, std::to_integer<std::uint8_t>(byte), shape.tensor_scale);
  });
  std::fill_n(rows.second, groups, static_cast<float>(kFloatCodeZero));
}

}  // namespace halfquad
