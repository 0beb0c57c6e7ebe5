#pragma once

#include "runtime/dtype.h"
#include "sharding/row_packer.h"

namespace halfquad {

/// What one byte of scale is stored as: E4M3 for nvfp4, U8 for the exponents of mxfp4.
[[nodiscard]] DType scale_dtype(FloatGrid grid) noexcept;

/// Rows of E2M1 codes, two to a byte, and a byte of scale for each group.
class FloatRows final : public RowPacker {
 public:
  [[nodiscard]] GridForm form(const QuantSpec& /*spec*/) const noexcept override { return {}; }
  [[nodiscard]] RowCuts cuts(const RowShape& shape) const noexcept override;
  void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const override;
  void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const override;
};

}  // namespace halfquad
