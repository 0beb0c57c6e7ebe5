#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/quant_spec.h"
#include "runtime/dtype.h"
#include "sharding/row_packer.h"

namespace halfquad {

/// The grids of some groups once they have been rounded to what a format stores, and what codes and errors are taken
/// on: w = (q - zero) scale, with q the nearest code to w·inverse + zero.
///
/// The one rule of all formats of whole rows: s is rounded to the stored dtype (never to 0); what stands beside it is
/// computed in fp32 from the solver's s and z and rounded once; the zero of a stored offset is middle - offset / scale.
struct StoredGrid {
  std::vector<float> scale, second;  ///< As StoredRows wants them.
  std::vector<float> zero, inverse;

  /// Takes `count` grids from a solver. False when one does not fit the dtype.
  [[nodiscard]] bool assign(const GridForm& form, ZeroKind zeros, DType stored, const float* s, const float* z,
                            std::size_t count);
  /// Takes `count` grids of another output, whose scales may be negative or smaller than any a solver makes: only one
  /// that would be 0 becomes the smallest instead.
  [[nodiscard]] bool adopt(const GridForm& form, ZeroKind zeros, DType stored, const float* s, const float* z,
                           std::size_t count);
  /// Likewise from what was stored: `scale` and `second` are filled in.
  void derive(const GridForm& form);

  /// Rounds scales to what they are stored as; never to 0. False when one does not fit.
  [[nodiscard]] bool round_scale(DType stored, std::vector<float>& values);

 private:
  [[nodiscard]] bool take(const GridForm& form, ZeroKind zeros, DType stored, const float* s, const float* z,
                          std::size_t count);
  [[nodiscard]] bool round(DType stored, std::vector<float>& values);
  std::vector<std::byte> bytes_;
};

}  // namespace halfquad
