#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/quant_spec.h"
#include "kernels/solver.h"
#include "runtime/dtype.h"
#include "sharding/tiles.h"

namespace halfquad {

/// A layer W[rows, cols] in a format that keeps whole rows: axis 1, groups that do not straddle rows.
struct RowShape {
  QuantSpec spec;
  std::int64_t rows = 0, cols = 0;
  DType stored = DType::kF16;  ///< Of its scales.
  float tensor_scale = 1;      ///< Where its scales are over one of the tensor's.

  [[nodiscard]] std::int64_t group_elems() const noexcept { return spec.group_size == 0 ? cols : spec.group_size; }
  [[nodiscard]] std::int64_t groups_per_row() const noexcept { return cols / group_elems(); }
};

/// What a format keeps beside the scale s.
struct GridForm {
  enum class Second : std::uint8_t {
    kZero,    ///< z, rounded to the scale's dtype when it is not a whole number.
    kOffset,  ///< (middle - z) s, rounded to the scale's dtype: w = (q - middle) s + offset.
  };
  Second second = Second::kZero;
  float middle = 0;
};

/// Some whole rows of a layer as they are stored, row-major. Scales and what stands beside them have values of the
/// dtype they are stored in.
struct StoredRows {
  std::int64_t rows = 0;
  const std::uint8_t* codes = nullptr;
  const float* scale = nullptr;
  const float* second = nullptr;  ///< As GridForm says.
};
/// The same, to be filled in.
struct LoadedRows {
  std::int64_t rows = 0;
  std::uint8_t* codes = nullptr;
  float* scale = nullptr;
  float* second = nullptr;
};

/// Where the bytes of some rows lie in one of the layer's tensors: the first unit in the first run, and how far apart
/// the runs are.
template <class Byte>
struct LineBytes {
  Byte* data = nullptr;
  std::uint64_t stride = 0;
};
template <class Byte>
struct RowPlaces {
  LineBytes<Byte> codes, scale, zero;
};

/// Turns rows of a format into bytes and back. Stateless: one object serves all threads.
class RowPacker {
 public:
  virtual ~RowPacker() = default;
  [[nodiscard]] virtual GridForm form(const QuantSpec& spec) const noexcept = 0;
  [[nodiscard]] virtual RowCuts cuts(const RowShape& shape) const noexcept = 0;
  /// Rows that a tile holds at least: more where the layer lies transposed, so that it is not written in crumbs.
  [[nodiscard]] virtual std::int64_t least_tile_rows() const noexcept { return TileGeometry::kRowStep; }
  /// @pre the rows begin at a multiple of TileGeometry::kRowStep of the layer and end at one, or at its end; so for
  /// unpack().
  virtual void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const = 0;
  /// For specs with super-blocks, in place of a solver and pack(): searches the best bytes for the finite `weights` of
  /// some rows and adds their errors. `importance`: one for each column of the layer; null: all count the same.
  /// @pre the format has super-blocks.
  virtual void search(const RowShape& shape, std::span<const float> weights, const float* importance,
                      const RowPlaces<std::byte>& out, ErrorSums& errors) const;
  virtual void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const = 0;
};

}  // namespace halfquad
