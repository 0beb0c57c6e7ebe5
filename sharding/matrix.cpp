#include "sharding/matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "kernels/pack.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/stop_flag.h"
#include "sharding/decision_board.h"
#include "sharding/tile_solver.h"

namespace halfquad {
namespace {

/// A layer's way through the pipeline, without files: first passes over all tiles, where something has to be known of
/// the whole; then every tile whose result is not there yet.
class MatrixJob {
 public:
  MatrixJob(const Matrix& matrix, const QuantSpec& spec, const MatrixOptions& options, const MatrixOutput& out)
      : matrix_(matrix),
        options_(options),
        out_(out),
        tensor_{.module = "matrix",
                .spec = spec,
                .rows = matrix.rows,
                .cols = matrix.cols,
                .tiles = TileGeometry(spec, matrix.rows, matrix.cols)} {
    // An idle worker costs a solver's scratch memory.
    const auto workers = std::clamp<std::int64_t>(options.threads, 1, tensor_.tiles.tile_count());
    for (std::int64_t i = 0; i < workers; ++i) workers_.push_back({TileSolver(options.make_solver()), {}, {}, {}, {}});
  }

  MatrixResult run() {
    decision_.steps = tensor_.spec.iters;
    if (tensor_.optimizes() || tensor_.weighs_columns() || !tensor_.spec.channel_wise) {
      for_each_tile([this](Worker& worker, std::int64_t tile) { first_pass(worker, tile); });
      decision_ = decide(tensor_, passes_);
    }
    if (!tensor_.spec.channel_wise) store_grid();
    const bool solved = tensor_.optimizes() && decision_.steps == tensor_.spec.iters;
    if (!solved) {
      error_ = {};
      for_each_tile([this](Worker& worker, std::int64_t tile) { solve(worker, tile, RecordErrors::kNo); });
    }
    return {error_, tensor_.optimizes() ? decision_.steps : 0};
  }

 private:
  struct Worker {
    TileSolver solver;
    std::vector<std::byte> weights;  // of a tile that is a range of columns
    std::vector<std::byte> codes, scale, zero;
  };

  void for_each_tile(const std::function<void(Worker&, std::int64_t)>& body) {
    parallel_for(static_cast<int>(workers_.size()), tensor_.tiles.tile_count(), never_,
                 [&](int worker, std::int64_t tile) { body(workers_[static_cast<std::size_t>(worker)], tile); });
  }

  [[nodiscard]] TileSource source_of(Worker& worker, std::int64_t tile) const {
    // Solvers only read their source; what may be written to is the pipeline's own buffer.
    auto* const data = const_cast<std::byte*>(matrix_.data);
    const std::vector<ByteRange> ranges = tensor_.tiles.source_ranges(tile, bytes_of(matrix_.dtype));
    TileSource source{.dtype = matrix_.dtype, .slabs = {}};
    if (!tensor_.tiles.by_columns()) {
      for (const ByteRange& range : ranges) source.slabs.push_back(data + range.offset);
      source.slabs.resize(static_cast<std::size_t>(slabs_of(tensor_.tiles.packing())), nullptr);
      return source;
    }
    worker.weights.resize(total_bytes(ranges));
    std::byte* to = worker.weights.data();
    for (const ByteRange& range : ranges) to = std::copy_n(data + range.offset, range.bytes, to);
    source.slabs.push_back(worker.weights.data());
    return source;
  }

  static void scatter(const std::vector<std::byte>& from, std::span<const ByteRange> ranges, std::byte* to) {
    const std::byte* at = from.data();
    for (const ByteRange& range : ranges) {
      std::copy_n(at, range.bytes, to + range.offset);
      at += range.bytes;
    }
  }

  void first_pass(Worker& worker, std::int64_t tile) {
    FirstPasses found;
    found.tiles = 1;
    if (tensor_.optimizes()) {
      found.step_abs = solve(worker, tile, RecordErrors::kYes);
    } else if (tensor_.weighs_columns()) {
      found.columns.emplace(tensor_.cols);
      TileSolver::add_columns(tensor_, tile, source_of(worker, tile), *found.columns);
    } else {
      found.range = worker.solver.range(tensor_, tile, source_of(worker, tile));
      if (found.range.nonfinite) throw_unsolvable();
    }
    const std::lock_guard lock(mutex_);
    passes_.add(std::move(found));
  }

  std::vector<ExactSum> solve(Worker& worker, std::int64_t tile, RecordErrors record) {
    const TileGeometry& tiles = tensor_.tiles;
    const auto code_ranges = tiles.code_ranges(tile);
    const auto scale_ranges = tiles.scale_ranges(tile, bytes_of(options_.stored));
    const auto zero_ranges = tiles.zero_ranges(tile, bytes_of(options_.stored));
    worker.codes.resize(total_bytes(code_ranges));
    worker.scale.resize(total_bytes(scale_ranges));
    worker.zero.resize(total_bytes(zero_ranges));
    const TileSolver::Job job{.tensor = &tensor_,
                              .tile = tile,
                              .stored = options_.stored,
                              .iters = decision_.steps,
                              .record = record,
                              .grid = tensor_.spec.channel_wise ? nullptr : &decision_.grid,
                              .importance = decision_.importance ? decision_.importance->data() : nullptr};
    std::vector<ExactSum> step_abs(record == RecordErrors::kYes ? static_cast<std::size_t>(tensor_.spec.iters) : 0);
    const TileSource source = source_of(worker, tile);
    ErrorSums error;
    for (std::int64_t strip = 0; strip < TileSolver::strip_count(tensor_, tile); ++strip) {
      StripResult result;
      if (!worker.solver.solve(job, strip, source, {worker.codes.data(), worker.scale.data(), worker.zero.data()},
                               result, step_abs)) {
        throw_unsolvable();
      }
      error.add(result.error);
    }
    scatter(worker.codes, code_ranges, out_.codes);
    scatter(worker.scale, scale_ranges, out_.scale);
    scatter(worker.zero, zero_ranges, out_.zero);
    const std::lock_guard lock(mutex_);
    error_.add(error);
    return step_abs;
  }

  void store_grid() const {
    const FixedGrid& grid = decision_.grid;
    if (!std::isfinite(grid.scale) || !std::isfinite(grid.zero)) throw_unsolvable();
    HALFQUAD_REQUIRE(
        std::isfinite(round_to(options_.stored, grid.scale)) && std::isfinite(round_to(options_.stored, grid.zero)),
        kBadInput,
        fmt::format("the matrix's scale or zero does not fit {}; store them as F32", name_of(options_.stored)));
    encode_from_f32(&grid.scale, options_.stored, 1, out_.scale);
    encode_from_f32(&grid.zero, options_.stored, 1, out_.zero);
  }

  [[noreturn]] void throw_unsolvable() const {
    const std::optional<std::int64_t> at = find_nonfinite(matrix_.data, matrix_.dtype, matrix_.rows * matrix_.cols);
    HALFQUAD_REQUIRE(
        !at, kBadInput,
        fmt::format("the matrix holds a NaN or infinity at [{}, {}]", *at / matrix_.cols, *at % matrix_.cols));
    throw Error(ErrorCode::kBadInput, "the range of a group of the matrix's weights is beyond fp32");
  }

  const Matrix& matrix_;
  const MatrixOptions& options_;
  const MatrixOutput& out_;
  const QuantizedTensor tensor_;
  const StopFlag never_;
  std::vector<Worker> workers_;
  TensorDecision decision_;
  std::mutex mutex_;  // guards what follows
  FirstPasses passes_;
  ErrorSums error_;
};

}  // namespace

MatrixResult quantize_matrix(const Matrix& matrix, const QuantSpec& spec, const MatrixOptions& options,
                             const MatrixOutput& out) {
  return MatrixJob(matrix, spec, options, out).run();
}

void dequantize_matrix(const StoredMatrix& quantized, std::int64_t rows, std::int64_t cols, const QuantSpec& spec,
                       DType stored, float* weights) {
  const TileGeometry tiles(spec, rows, cols);
  const GroupedShape& shape = tiles.grouped();
  const auto count = static_cast<std::size_t>(tiles.scale_count());
  std::vector<float> scale(count), zero(count);
  decode_to_f32(quantized.scale, stored, tiles.scale_count(), scale.data());
  decode_to_f32(quantized.zero, stored, tiles.scale_count(), zero.data());

  const int slabs = slabs_of(tiles.packing());
  const auto cols_of_group = static_cast<std::size_t>(shape.cols);
  std::vector<std::uint8_t> codes(cols_of_group * static_cast<std::size_t>(slabs));
  std::vector<std::uint8_t*> unpacked;
  for (int slab = 0; slab < slabs; ++slab)
    unpacked.push_back(codes.data() + static_cast<std::size_t>(slab) * cols_of_group);
  for (std::int64_t packed = 0; packed < tiles.packed_rows(); ++packed) {
    unpack_codes(tiles.packing(), quantized.codes + packed * shape.cols * packed_bytes_of(tiles.packing()), shape.cols,
                 unpacked);
    for (int slab = 0; slab < slabs; ++slab) {
      const std::int64_t row = slab * tiles.packed_rows() + packed;
      if (row >= shape.rows) continue;  // padding
      for (std::int64_t col = 0; col < shape.cols; ++col) {
        const auto group = static_cast<std::size_t>(!spec.channel_wise ? 0 : tiles.by_columns() ? col : row);
        const auto code = static_cast<float>(unpacked[static_cast<std::size_t>(slab)][col]);
        weights[row * shape.cols + col] = (code - zero[group]) * scale[group];
      }
    }
  }
}

}  // namespace halfquad
