#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/solver.h"

namespace halfquad {

/// Super-blocks of 256 weights of one row with one or two fp16 numbers, d and dmin. Sub-blocks of 16 or 32 weights have
/// small whole scales sc, and minima mn, in units of them.
enum class GgmlKQuant : std::uint8_t {
  kQ2_K,  ///< d·sc·q - dmin·mn: 2-bit q, 4-bit sc and mn for 16 weights; 84 bytes
  kQ3_K,  ///< d·sc·(q - 4): 3-bit q, sc -32..31 for 16 weights; 110 bytes
  kQ4_K,  ///< d·sc·q - dmin·mn: 4-bit q, 6-bit sc and mn for 32 weights; 144 bytes
  kQ5_K,  ///< The same with 5-bit q; 176 bytes
  kQ6_K,  ///< d·sc·(q - 32): 6-bit q, sc -128..127 for 16 weights; 210 bytes
};
inline constexpr std::int64_t kGgmlSuperBlock = 256;

[[nodiscard]] std::string_view name_of(GgmlKQuant kind) noexcept;  ///< "Q2_K", ...
[[nodiscard]] std::int64_t block_bytes_of(GgmlKQuant kind) noexcept;

/// Searches scales, minima and codes of the smallest (weighted) squared error, a super-block on its own: per sub-block
/// alternating least squares from several ranges, then d and dmin by least squares in turn with the neighbours of every
/// sc and mn. The same bytes from every target. One object may serve several threads.
class GgmlKQuantizer {
 public:
  virtual ~GgmlKQuantizer() = default;

  /// `count` weights, whole super-blocks, become count / 256 blocks. `importance`: of the weights' columns, whole
  /// super-blocks of them. @pre The weights are finite; beyond what fp16 times the largest sc can hold they are cut
  /// off.
  virtual void quantize(GgmlKQuant kind, const float* weights, std::int64_t count, const ColumnWeights& importance,
                        std::byte* blocks) const = 0;
};

/// For the fastest SIMD target of this CPU, or the named one (simd_targets()). Throws kUsage for a target this binary
/// or CPU does not have.
[[nodiscard]] std::unique_ptr<GgmlKQuantizer> make_k_quantizer(const std::optional<std::string>& target = {});

/// The weights that `count` / 256 blocks stand for, in fp32, each operation rounded once, in the order written above.
void dequantize_k_quants(GgmlKQuant kind, const std::byte* blocks, std::int64_t count, float* weights) noexcept;

/// The codes q of `count` weights as stored, and for every sub-block its scale d·sc and minimum dmin·mn (0 for the
/// kinds without).
void unpack_k_quants(GgmlKQuant kind, const std::byte* blocks, std::int64_t count, std::uint8_t* codes, float* scale,
                     float* minimum) noexcept;

/// Adds the errors of restored weights, whole super-blocks, to `sums`: a super-block is a group of consecutive
/// elements. With `importance` the weighted ones, too.
void measure_k_quants(const float* weights, const float* restored, std::int64_t count, const ColumnWeights& importance,
                      ErrorSums& sums) noexcept;

}  // namespace halfquad
