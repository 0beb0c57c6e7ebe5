#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

// What the kernels and the host agree on. Plain structs: nvcc sees nothing else of halfquad.

namespace halfquad::cuda {

inline constexpr int kMostSlabs = 10;
inline constexpr int kDigits = 9;  ///< Of an exact sum: counters of 32-bit digits.
using Digit = unsigned long long;

enum class Float : int { kF32, kF16, kBF16, kF64 };

/// What is stored of a group's grid, and codes are taken on: see DeviceTile::StoredForm.
enum class Form : int { kAsFound, kZero, kOffset };

struct GridValues {
  float inverse_scale = 1, scale = 1, zero = 0;
};

struct StepValues {
  float inv_beta = 0, inert_threshold = 0;
};

/// How the last places of a float are rounded away: (bits + half) & mask.
struct Cut {
  unsigned half = 0, mask = 0xFFFFFFFFU;
};

inline constexpr unsigned kMetNonfinite = 1;
inline constexpr unsigned kMetUnstorable = 2;

/// What a tile adds up to. Zeros to begin with.
struct TileSums {
  Digit abs[kDigits];
  Digit square[kDigits];
  Digit weight2[kDigits];
  Digit weighted_square[kDigits];  ///< These two where columns are weighed.
  Digit weighted_weight2[kDigits];
  unsigned max_abs;  ///< Bits of the float.
  int settled;
  unsigned met;  ///< kMetNonfinite, kMetUnstorable.
};

/// A tile on the device, or what of it fits there. All pointers are the device's.
struct Part {
  /// By rows: rows of each slab, back to back. By columns: slab 0 alone, all rows of `cols` weights.
  /// 16 bytes aligned.
  const unsigned char* source[kMostSlabs];
  std::int64_t rows[kMostSlabs];
  std::int64_t first_group[kMostSlabs];  ///< By rows: where the slab's groups begin in `scale` and `zero`.
  std::int64_t cols;
  const float* importance;             ///< Of each of the tensor's columns; null: they count the same.
  std::int64_t tensor_cols;            ///< Of these.
  std::int64_t first_col[kMostSlabs];  ///< That a slab's first weight lies in.
  std::int64_t packed_rows;
  unsigned char* codes;     ///< packed_rows x cols packed elements, 16 bytes aligned.
  unsigned char* unpacked;  ///< General kernels: slabs x packed_rows x cols codes.
  unsigned char* scale;
  unsigned char* zero;
  TileSums* sums;   ///< Of the tile.
  Digit* step_abs;  ///< Of the tile, kDigits a step.
  GridValues grid;  ///< When it is given from outside.
  std::int64_t first_block;
};

inline constexpr int kWholeStarts = 5;
inline constexpr int kMostCandidates = 8;  ///< That a search keeps of a group.

/// How whole zeros are searched for: kernels/integer_zero.h has the meaning of each. `fixed_zero` and `symmetric` are
/// those of als, too.
struct WholeValues {
  bool symmetric, searches;
  float fixed_zero;
  int fraction_bits;
  int rounds, kept;
  float parts[kWholeStarts];
  int multipliers[kWholeStarts], zeros[kWholeStarts];
};

/// The scales of a floating-point grid by their bytes, and those that are tried: kernels/float_grid.h.
struct FloatTable {
  float scale[256], inverse[256];
  int offsets[33];  ///< From the first byte.
};
struct FloatValues {
  int lowest, highest;  ///< Bytes.
  int offsets;          ///< In the table; 1: nothing is searched.
  float tensor_scale;
  bool e4m3;  ///< What scales are; else E8M0.
};

/// How all parts of a launch are solved.
struct SolveLaunch {
  const Part* parts;  ///< The device's, ascending by first_block.
  int part_count;
  std::int64_t blocks;
  const StepValues* steps;  ///< The device's, `iters` of them.
  const float* starts;      ///< The device's, `start_count` of them: parts of the range that als starts from.
  int start_count, rounds;
  Cut cut_h, cut_hd;  ///< Of als.
  WholeValues whole;
  const FloatTable* float_table;  ///< The device's.
  FloatValues floats;
  int iters;  ///< 0: no steps.
  bool record;
  bool given_grid;
  bool round_zero;
  bool exit_at_fixed_point;
  float largest_code;
  int slabs;
  int slab_bits;  ///< Distance between neighbouring slabs in a packed element.
  bool wide;      ///< Packed elements have four bytes, not one.
  Float source, stored;
  Form form;
  float middle;
  bool constant_power;  ///< p = 1.
  float c, chi, clo;    ///< Of the power function.
};

enum class Code : int { kE4M3, kE5M2, kI8 };
enum class CodeScale : int { kF32, kF16, kBF16, kE8M0 };

/// What numbers below 2^31 are divided by: n / value = n * multiplier >> shift (Granlund and Montgomery, 1994). Devices
/// take some twenty instructions for any other division of integers.
struct Divisor {
  unsigned value, multiplier, shift;
};

/// Consecutive weights of a tensor that lie as codes of one byte, scaled in blocks. All pointers are the device's;
/// codes and weights have room for a multiple of four.
struct CodedRun {
  const unsigned char* codes;  ///< 4 bytes aligned.
  const unsigned char*
      scales;      ///< From the line of the grid that the first weight belongs to; aligned as they are wide.
  float* weights;  ///< Where they go; 16 bytes aligned.
  std::int64_t first_block;
  unsigned count;
  unsigned first_row, first_col;  ///< Of the first weight: among the rows of its line, and of the tensor.
  unsigned line_scales;
  Divisor cols;  ///< Of the tensor.
  Divisor block_rows, block_cols;
};

/// The runs of all parts of a launch.
struct DecodeLaunch {
  const CodedRun* runs;  ///< The device's, ascending by first_block.
  int run_count;
  std::int64_t blocks;
  Code code;
  CodeScale scale;
};

/// Weights that a block of the decoding kernel takes.
inline constexpr int kDecodedOfBlock = 4096;

/// Enqueues the decoding of weights, which a solver reads as kF32.
[[nodiscard]] cudaError_t launch_decode(const DecodeLaunch& launch, cudaStream_t stream);

/// The kernels there are. Each cuts a part into blocks in its own way.
enum class KernelKind {
  kRows,            ///< Groups of 32, 64 or 128 consecutive weights, in registers, packed at once.
  kColumns,         ///< Groups of 64 or 128 weights a row apart, likewise.
  kGeneralRows,     ///< Any groups of consecutive weights, a warp each.
  kGeneralColumns,  ///< Any groups of weights a row apart, a thread each.
  kOneColumn,       ///< By columns, and the tile has but one: its weights are consecutive and summed as such.
  kAlsRows,         ///< As kRows, searched by als, four threads each.
  kAlsGeneralRows,  ///< As kGeneralRows, likewise.
  kWholeRows,       ///< As kAlsRows, searched for whole zeros.
  kWholeGeneralRows,
  kWeighedWholeRows,  ///< The same by als, with columns that count differently.
  kWeighedWholeGeneralRows,
  kFloatRows,  ///< Groups of 16 or 32 consecutive weights for a floating-point grid, a thread each.
};
struct KernelChoice {
  KernelKind kind = KernelKind::kGeneralRows;
  int group_elems = 0;  ///< Of those in registers.
  [[nodiscard]] bool packs() const noexcept { return group_elems != 0; }
};

/// How the grids of groups are found.
enum class Finder {
  kSteps,         ///< By steps of hqq, if any.
  kAls,           ///< AlsSearch, zeros of any value.
  kWhole,         ///< IntegerZeroSearch.
  kWeighedWhole,  ///< AlsSearch, whole zeros.
  kFloats,        ///< FloatScales. @pre Groups of 16 or 32.
};

/// The groups of a tile. @pre finder is kSteps where they are columns.
struct GroupKind {
  Finder finder = Finder::kSteps;
  bool by_columns = false, one_column = false;
  std::int64_t elems = 0;
};
[[nodiscard]] KernelChoice choose_kernel(const GroupKind& groups) noexcept;

/// Blocks that `part` takes.
[[nodiscard]] std::int64_t blocks_of(const KernelChoice& choice, const Part& part, int slabs) noexcept;

/// Enqueues the kernels of a launch: the solver, and the packer where the solver leaves codes unpacked.
[[nodiscard]] cudaError_t launch_solve(const KernelChoice& choice, const SolveLaunch& launch, cudaStream_t stream);

// One file each; see launch_solve().
[[nodiscard]] cudaError_t launch_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_columns(int group_elems, const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_general_rows(const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_general_columns(const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_one_column(const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_als_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_als_general_rows(const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_whole_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_whole_general_rows(const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_weighed_whole_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_weighed_whole_general_rows(const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_float_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_pack(const SolveLaunch& launch, bool by_columns, cudaStream_t stream);

}  // namespace halfquad::cuda
