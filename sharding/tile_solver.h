#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/column_importance.h"
#include "kernels/level_grid.h"
#include "kernels/solver.h"
#include "sharding/given_groups.h"
#include "sharding/output_layout.h"
#include "sharding/stored_grid.h"

namespace halfquad {

/// A tile's weights in memory, in the source's dtype; coded elements where QuantizedTensor::given says so.
struct TileSource {
  DType dtype = DType::kF32;
  /// By rows: the rows of each slab, null where padding leaves a slab without rows. By columns: one block holding all
  /// rows of the tile's columns, back to back.
  std::vector<std::byte*> slabs;
};

/// Where a tile's results go; sizes as TileGeometry's ranges add up to, range after range.
struct TileOutput {
  std::byte* codes = nullptr;  ///< Packed rows of the tile, back to back.
  std::byte* scale = nullptr;  ///< In the stored dtype, slab after slab; unused for per-tensor quantization.
  std::byte* zero = nullptr;   ///< What the format keeps beside the scale.
};

/// What solving a strip (an L2-sized part of a tile) left behind.
struct StripResult {
  ErrorSums error;
  int settled = 0;  ///< SolveStats::settled of its groups.
};

/// Solves and packs tiles, strip by strip, so that codes never leave the cache unpacked. One object per worker.
class TileSolver {
 public:
  explicit TileSolver(std::unique_ptr<Solver> solver) : solver_(std::move(solver)) {}

  /// Strips of a tile.
  [[nodiscard]] static std::int64_t strip_count(const QuantizedTensor& tensor, std::int64_t tile);

  /// How a strip is to be solved.
  struct Job {
    const QuantizedTensor* tensor = nullptr;
    std::int64_t tile = 0;
    DType stored = DType::kF16;
    int iters = 0;
    RecordErrors record = RecordErrors::kNo;
    const FixedGrid* grid = nullptr;    ///< Per-tensor quantization: encode on this grid instead of solving.
    const float* importance = nullptr;  ///< Where columns are weighed: one for each.
    float tensor_scale = 1;             ///< Where the tensor has one.
    const Levels* levels = nullptr;     ///< Where codes are numbers of levels.
  };

  /// Solves strip number `strip` into its place in `output`. Adds to `step_abs` when job.record says so.
  /// Returns false, with the outputs meaningless, when the strip holds a NaN or infinity or a range beyond fp32.
  /// Throws kBadInput when a scale or zero does not fit the stored dtype.
  [[nodiscard]] bool solve(const Job& job, std::int64_t strip, const TileSource& source, const TileOutput& output,
                           StripResult& result, std::vector<ExactSum>& step_abs);

  /// Groups [begin, end) of a tile of whole rows that are solved: one code to a byte, and StoredRows' values.
  struct SolvedRows {
    std::int64_t begin = 0, end = 0;
    const std::uint8_t* codes = nullptr;
    const float* scale = nullptr;
    const float* second = nullptr;
  };
  /// Packs them into their place in `output`. @pre begin and end are borders of strips, or the tile's.
  static void pack_rows(const Job& job, const SolvedRows& rows, const TileOutput& output);

  /// Adds the weights of a tile to their columns. @pre axis 1.
  static void add_columns(const QuantizedTensor& tensor, std::int64_t tile, const TileSource& source,
                          ColumnMoments& columns);

  /// Adds the weights of a tile, which are finite, to the histogram that levels follow from. @pre Whole rows.
  void add_levels(const Job& job, const TileSource& source, LevelHistogram& levels);

  /// Range of all weights of a tile.
  [[nodiscard]] WeightRange range(const QuantizedTensor& tensor, std::int64_t tile, const TileSource& source);

 private:
  [[nodiscard]] bool solve_rows(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                                const TileOutput& output, SolveStats& stats);
  [[nodiscard]] bool solve_columns(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                                   const TileOutput& output, SolveStats& stats);
  [[nodiscard]] bool solve_whole_rows(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                                      const TileOutput& output, SolveStats& stats);
  [[nodiscard]] bool search_super_blocks(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                                         const TileOutput& output, SolveStats& stats);
  [[nodiscard]] bool search_floats(const Job& job, const GroupBlock& block, SolveStats& stats);
  void take_floats(const Job& job, const GroupBlock& block, SolveStats& stats);
  void require_finite_scales(const Job& job) const;
  [[nodiscard]] GivenCodes found_codes(const Job& job) const noexcept;
  [[nodiscard]] bool encode_stored(const Job& job, const GroupBlock& block, const SolveTarget& target,
                                   SolveStats& stats);
  void refit_zeros(const Job& job, const GroupBlock& block);
  void solve_given(const Job& job, const GroupBlock& block, const SolveTarget& target, SolveStats& stats);
  void search_where_not_given(const Job& job, const SolveTarget& target);
  [[nodiscard]] bool solve_block(const Job& job, const GroupBlock& block, const SolveTarget& target, SolveStats& stats);
  void store_grid(const Job& job, std::int64_t groups, std::byte* scale, std::byte* zero) const;

  std::unique_ptr<Solver> solver_;
  std::vector<std::uint8_t> codes_;  // of one strip, slab after slab
  std::vector<float> scale_, zero_;
  std::vector<float> weights_;  // of a strip of super-blocks, or on a floating-point grid
  StoredGrid grid_;
  GivenGroups given_;
};

}  // namespace halfquad
