#pragma once

#include <cstddef>
#include <cstdint>
#include <halfquad/error.h>
#include <halfquad/version.h>
#include <optional>
#include <span>

/// Quantization of matrices in the caller's memory, into the bytes that `halfquad quantize --format hqq` writes for
/// them.
///
/// Nothing here keeps state, prints or ends the process. Every function may be called from any number of threads at the
/// same time, with buffers of their own. Errors are halfquad::Error alone; its code() tells which kind:
/// kUsage for settings that make no sense, or do not fit the matrix or the buffers; kBadInput for weights that cannot
/// be quantized; kOutOfMemory; kInternal.
namespace halfquad {

/// How floating-point numbers lie in memory, in the machine's byte order.
enum class FloatType : std::uint8_t {
  kF32,   ///< IEEE 754, 4 bytes.
  kF16,   ///< IEEE 754, 2 bytes.
  kBF16,  ///< The upper half of an F32.
  kF64,   ///< IEEE 754, 8 bytes; rounded to F32 first. Not for scales.
};

/// Width of a code. k1_58 has the three values 0, 1, 2.
enum class CodeBits : std::uint8_t { k1, k1_58, k2, k3, k4, k5, k6, k8 };

enum class SolveMethod : std::uint8_t {
  kAutomatic,       ///< kLeastSquares for groups along rows, kHalfQuadratic elsewhere.
  kRoundToNearest,  ///< Between the smallest and the largest weight of a group.
  kHalfQuadratic,   ///< As the hqq library does it, early stop included.
  kLeastSquares,    ///< Scale and zero in turns, from several ranges.
};

/// What decides the output's bytes, and `threads`, which does not.
struct QuantizeSettings {
  CodeBits bits = CodeBits::k4;
  std::int64_t group_size = 64;  ///< Weights that share a scale and a zero; 0: a whole row (axis 1) or column (axis 0).
  int axis = 1;                  ///< 1: groups of consecutive weights of a row; 0: across the rows.
  bool per_tensor = false;       ///< One scale and zero for the whole matrix, rounded to nearest.
  SolveMethod method = SolveMethod::kAutomatic;
  int steps = 0;  ///< Most steps of kHalfQuadratic, or rounds of kLeastSquares (1..1000); 0: 20 and 4.
  std::optional<bool> round_zero = {};  ///< Begin from a whole zero; by default with 4 bits.
  bool weigh_columns = true;            ///< kLeastSquares: errors of some columns count more, as their weights suggest.
  FloatType stored = FloatType::kF16;   ///< Of scales and zeros.
  int threads = 1;                      ///< 1..4096.
};

/// Weights, row after row without gaps: element [r, c] is number r * cols + c. Only read.
struct WeightMatrix {
  const void* data = nullptr;
  FloatType type = FloatType::kF32;
  std::int64_t rows = 0;  ///< Output features of a linear layer.
  std::int64_t cols = 0;  ///< Its input features.
};

/// Sizes of what quantize() writes.
///
/// Codes are packed across the rows of the grouped matrix, which has a group in each row (axis 1) or column (axis 0),
/// as in the hqq library: one byte holds codes of 1, 2, 4 or 8 rows that are an equal distance apart, the first row in
/// the highest bits; for 3 bits one 32-bit word holds those of 10 rows. 1.58, 5 and 6 bits are packed like 2 and 8.
struct QuantizedShape {
  std::int64_t packed_rows = 0;
  std::int64_t packed_cols = 0;
  int packed_element_bytes = 1;  ///< 1, or 4 for 3 bits.
  std::int64_t scales = 0;       ///< As many zeros; in the order of the groups.
  std::size_t code_bytes = 0;    ///< packed_rows * packed_cols * packed_element_bytes.
  std::size_t scale_bytes = 0;   ///< As many for the zeros.
};

/// Where quantize() writes. Each is at least as long as QuantizedShape says; none overlaps another, or the weights.
struct QuantizedBuffers {
  std::span<std::byte> codes;
  std::span<std::byte> scale;  ///< s of w = (q - z) * s.
  std::span<std::byte> zero;   ///< z
};

/// What quantize() wrote.
struct QuantizedMatrix {
  std::span<const std::byte> codes;
  std::span<const std::byte> scale;
  std::span<const std::byte> zero;
};

/// Errors of the quantized weights against the given ones, with scales and zeros as they are stored.
struct QuantizeErrors {
  double mean_abs = 0;                  ///< sum |w - ŵ| / count
  double max_abs = 0;                   ///< largest |w - ŵ|
  std::optional<double> relative = {};  ///< sqrt(sum (w - ŵ)² / sum w²), if any weight is not zero
  int steps = 0;                        ///< kHalfQuadratic: steps that counted.
};

/// Throws kUsage when `settings` do not fit a matrix of [rows, cols], saying why.
[[nodiscard]] QuantizedShape quantized_shape(std::int64_t rows, std::int64_t cols, const QuantizeSettings& settings);

/// Quantizes `weights` into `out`, whose content is undefined after an error. Throws kBadInput for a NaN or an
/// infinity, naming its place, for a group whose range F32 cannot hold, and for a scale or zero that settings.stored
/// cannot hold.
QuantizeErrors quantize(const WeightMatrix& weights, const QuantizeSettings& settings, const QuantizedBuffers& out);

/// The inverse: `weights` gets the rows * cols values of (q - z) * s, row after row. `settings` as they were given to
/// quantize(); of them bits, group_size, axis, per_tensor and stored count.
void dequantize(const QuantizedMatrix& quantized, std::int64_t rows, std::int64_t cols,
                const QuantizeSettings& settings, std::span<float> weights);

}  // namespace halfquad
