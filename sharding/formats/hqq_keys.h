#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/quant_spec.h"
#include "runtime/dtype.h"

namespace halfquad {

/// A tensor of a few bytes that hqq's loaders want beside the codes of a layer.
struct HqqConstant {
  std::string_view key;  ///< Without the module: "nbits".
  DType dtype = DType::kU8;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

/// PyTorch's name of F32, F16 or BF16: "bfloat16".
[[nodiscard]] std::string_view torch_name(DType dtype) noexcept;

/// What hqq's "optimize" says of a layer: whether a solver went over it.
[[nodiscard]] bool hqq_optimize(const QuantSpec& spec) noexcept;

/// The 16 constants of one layer, encoded as hqq's encode_safetensor_type does: bool U8 [], int I32 [], float F32 [],
/// text U8 [length], torch.Size I64 [2]. `stored` is the dtype of scale and zero.
[[nodiscard]] std::vector<HqqConstant> hqq_constants(const QuantSpec& spec, std::int64_t rows, std::int64_t cols,
                                                     DType stored);

/// Weights that share a scale, as a loader must find them: whole-row groups and per-tensor scales name the row length
/// (axis 1) or the column length (axis 0), by which the 3-bit unpacker finds its padding.
[[nodiscard]] std::int64_t hqq_group_size(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) noexcept;

/// Shape of scale and zero: [groups, 1] for axis 1, [1, groups] for axis 0, [] per tensor.
[[nodiscard]] std::vector<std::int64_t> hqq_scale_shape(const QuantSpec& spec, std::int64_t groups);

/// Dtype of the packed codes.
[[nodiscard]] DType hqq_codes_dtype(Packing packing) noexcept;

}  // namespace halfquad
