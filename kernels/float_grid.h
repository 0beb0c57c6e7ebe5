#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "kernels/level_grid.h"
#include "kernels/quant_spec.h"
#include "runtime/dtype.h"

namespace halfquad {

/// E2M1 numbers v are held as q = 12 + 2v wherever codes are unpacked, with half the scale: so (q - 12)·s is the
/// weight, exactly what it is for codes that are whole steps.
inline constexpr int kFloatCodeZero = 12;
inline constexpr int kLargestFloatCode = 24;

/// Weights that share a scale; 0 where that is open.
[[nodiscard]] constexpr std::int64_t group_size_of(FloatGrid grid) noexcept {
  return grid == FloatGrid::kNvfp4 ? 16 : grid == FloatGrid::kMxfp4 ? 32 : 0;
}

/// The number that scales of kNvfp4 are multiplied with before they become E4M3, for a tensor (or several that share
/// it) whose largest magnitude is `largest`: 448·6 / largest, so that the group with that weight has the largest E4M3.
/// 1 when all weights are zero; 2^100 at most.
[[nodiscard]] float tensor_scale_of(float largest) noexcept;
/// The greatest power of two that is no larger: its inverse is one, too, so that nothing is rounded where that is kept.
[[nodiscard]] float power_of_two_scale_of(float largest) noexcept;

/// s, half of what the byte of a group's scale stands for. `tensor_scale` counts for kNvfp4 alone. NaN for bytes that
/// are none.
[[nodiscard]] float group_scale_of(FloatGrid grid, std::uint8_t byte, float tensor_scale) noexcept;
/// The byte whose group_scale_of() is nearest to `scale` > 0.
[[nodiscard]] std::uint8_t scale_byte_of(FloatGrid grid, float scale, float tensor_scale) noexcept;

/// What is to be known of grids with levels.
struct LevelGroups {
  const Levels* levels = nullptr;
  std::int64_t group_elems = 64;
  DType stored = DType::kF16;  ///< Of scales: F32, F16 or BF16.
  int starts = 5, rounds = 4;  ///< As in QuantSpec.
};
/// Whole groups of finite weights, one after the other; `importance` has a number > 0 for each of `cols` columns, the
/// first weight being in column 0, or is null: all weights count the same.
struct FloatGroups {
  FloatGrid grid = FloatGrid::kMxfp4;
  float tensor_scale = 1;
  const float* weights = nullptr;
  std::int64_t groups = 0;
  const float* importance = nullptr;
  std::int64_t cols = 0;  ///< A multiple of the group size.
  LevelGroups of_levels = {};

  [[nodiscard]] std::int64_t group_elems() const noexcept {
    return of_levels.levels == nullptr ? group_size_of(grid) : of_levels.group_elems;
  }
};
/// A code for each weight, a scale s for each group.
struct FloatCodes {
  std::uint8_t* codes = nullptr;
  float* scale = nullptr;
};
struct FloatCodesView {
  const std::uint8_t* codes = nullptr;
  const float* scale = nullptr;
};
enum class ScaleSearch : std::uint8_t {
  kLargest,  ///< The scale that puts the group's largest weight at the end of the grid, rounded; of powers of two the
             ///< one below, as OCP's rule has it.
  kBest,     ///< Of the scales near it that one with the smallest sum of h·(w - ŵ)², that one itself on a tie.
};

/// Finds scales and codes; codes are the nearest, ties to even, of levels as nearest_level() says. The same bytes from
/// every backend; one object may serve several threads.
///
/// Of grids with levels, what is canonical: all in fp32, every operation rounded once, none fused, sums over a group in
/// index order. A scale s is looked at as it is stored, t = stored_level_scale(s): l = the level nearest to w·(1 / t),
/// e = w - l·t, score = sum (h·e)·e, A = sum (h·l)·w, B = sum (h·l)·l. From (largest / unit)·AlsSearch::part() for
/// every start `rounds` fits follow, s = A / B where A and B are positive and s is finite; else, or when t repeats, the
/// start ends. Of all t that were looked at the one with the smallest score is the result, of equal ones the first:
/// kLargest's, which is also the one when no score is finite. Groups of zeros have the scale 0.
class FloatGridSearcher {
 public:
  virtual ~FloatGridSearcher() = default;
  virtual void run(const FloatGroups& groups, ScaleSearch search, const FloatCodes& out) const = 0;
};

/// Plain loops: the definition of the bytes.
[[nodiscard]] std::unique_ptr<FloatGridSearcher> make_reference_float_searcher();
/// For the fastest SIMD target of this CPU, or the named one (simd_targets()). Throws kUsage for a target this binary
/// or CPU does not have.
[[nodiscard]] std::unique_ptr<FloatGridSearcher> make_float_searcher(const std::optional<std::string>& target = {});

/// The scales a search chooses from, by their bytes.
struct FloatScales {
  FloatScales(FloatGrid grid, float tensor_scale);

  /// The byte of kLargest for a group with this largest magnitude.
  [[nodiscard]] int first_byte(float largest) const noexcept;

  FloatGrid grid;
  float tensor_scale;
  int lowest, highest;           ///< Bytes that are considered, these included.
  std::span<const int> offsets;  ///< From the first byte to those that are considered, in this order.
  alignas(64) std::array<float, 256> scale{};
  alignas(64) std::array<float, 256> inverse{};  ///< 1 / scale where it is considered.
};

/// `count` codes, even in number, as nibbles of E2M1, the first of two in the low one.
void pack_e2m1(const std::uint8_t* codes, std::int64_t count, std::byte* out) noexcept;
void unpack_e2m1(const std::byte* in, std::int64_t count, std::uint8_t* codes) noexcept;

/// ggml's blocks of whole groups: the bytes of their scales, then the nibbles of group after group, the first half of a
/// group in the low ones. MXFP4: one group of 32, 17 bytes. NVFP4: four groups of 16, 36 bytes.
struct GgmlFloatBlocks {
  FloatGrid grid = FloatGrid::kMxfp4;
  std::int64_t groups = 0;  ///< A multiple of a block's.
  float tensor_scale = 1;   ///< Counts for kNvfp4 alone.
};
[[nodiscard]] constexpr std::int64_t ggml_block_groups(FloatGrid grid) noexcept {
  return grid == FloatGrid::kNvfp4 ? 4 : 1;
}
[[nodiscard]] constexpr std::int64_t ggml_block_bytes(FloatGrid grid) noexcept {
  return ggml_block_groups(grid) * (1 + group_size_of(grid) / 2);
}
void pack_ggml_floats(const GgmlFloatBlocks& blocks, const FloatCodesView& in, std::byte* out) noexcept;
void unpack_ggml_floats(const GgmlFloatBlocks& blocks, const std::byte* in, const FloatCodes& out) noexcept;

}  // namespace halfquad
