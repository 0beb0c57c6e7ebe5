#include <exception>
#include <halfquad/quantize.h>
#include <memory>
#include <new>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "launcher/library/settings.h"
#include "launcher/report.h"
#include "launcher/version.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "sharding/best_solver.h"
#include "sharding/local_run.h"
#include "sharding/matrix.h"
#include "sharding/tiles.h"

namespace halfquad {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 56;  // every byte count fits 64 bits

/// Calls `body`; whatever it throws leaves as an Error.
template <class Body>
auto guarded(Body body) {
  try {
    return body();
  } catch (const Error&) {
    throw;
  } catch (...) {
    throw as_error(std::current_exception());
  }
}

DType stored_dtype(const QuantizeSettings& settings) {
  const DType stored = dtype_of(settings.stored);
  HALFQUAD_REQUIRE(stored != DType::kF64, kUsage,
                   "scales and zeros cannot be stored as F64; choose kF32, kF16 or kBF16");
  return stored;
}

void set_steps(const QuantizeSettings& settings, QuantSpec& spec) {
  HALFQUAD_REQUIRE(
      settings.steps >= 0 && settings.steps <= QuantSpec::kMaxIters, kUsage,
      fmt::format("settings.steps is {}; choose 1 to {}, or 0 for the default", settings.steps, QuantSpec::kMaxIters));
  if (settings.steps > 0) (spec.solver == SolverKind::kAls ? spec.rounds : spec.iters) = settings.steps;
}

/// What `halfquad quantize` makes of such settings for a layer.
QuantSpec spec_of(std::int64_t rows, std::int64_t cols, const QuantizeSettings& settings) {
  HALFQUAD_REQUIRE(rows > 0 && cols > 0 && rows <= kMaxElements / cols, kUsage,
                   fmt::format("a matrix of {} rows and {} columns cannot be quantized", rows, cols));
  HALFQUAD_REQUIRE(settings.axis == 0 || settings.axis == 1, kUsage,
                   fmt::format("settings.axis is {}; choose 0 or 1", settings.axis));
  HALFQUAD_REQUIRE(
      settings.group_size >= 0, kUsage,
      fmt::format("settings.group_size is {}; choose a positive number, or 0 for whole rows", settings.group_size));
  QuantSpec spec;
  spec.width = width_of(settings.bits);
  spec.group_size = settings.group_size;
  spec.axis = settings.axis;
  spec.channel_wise = !settings.per_tensor;
  spec.solver = solver_of(settings.method).value_or(best_solver(spec));
  spec.round_zero = settings.round_zero.value_or(spec.width == CodeWidth::k4);
  if (!settings.weigh_columns) spec.importance = Importance::kNone;
  set_steps(settings, spec);
  if (const auto refusal = why_not(spec, rows, cols)) throw Error(ErrorCode::kUsage, *refusal);
  return spec;
}

template <class Byte>
void require_size(std::span<Byte> buffer, std::size_t wanted, std::string_view what) {
  HALFQUAD_REQUIRE(buffer.data() != nullptr && buffer.size() >= wanted, kUsage,
                   fmt::format("the buffer of the {} has {} bytes, but {} are needed", what, buffer.size(), wanted));
}

void require_buffers(const auto& buffers, const QuantizedShape& shape) {
  require_size(buffers.codes, shape.code_bytes, "codes");
  require_size(buffers.scale, shape.scale_bytes, "scales");
  require_size(buffers.zero, shape.scale_bytes, "zeros");
}

QuantizedShape shape_of(const QuantSpec& spec, std::int64_t rows, std::int64_t cols, DType stored) {
  const TileGeometry tiles(spec, rows, cols);
  QuantizedShape shape;
  shape.packed_rows = tiles.packed_rows();
  shape.packed_cols = tiles.grouped().cols;
  shape.packed_element_bytes = packed_bytes_of(tiles.packing());
  shape.scales = tiles.scale_count();
  shape.code_bytes = static_cast<std::size_t>(shape.packed_rows * shape.packed_cols * shape.packed_element_bytes);
  shape.scale_bytes = static_cast<std::size_t>(shape.scales * bytes_of(stored));
  return shape;
}

QuantizeErrors errors_of(const MatrixResult& result, std::int64_t weights) {
  const ErrorFigures figures = error_figures(result.error, static_cast<std::uint64_t>(weights));
  return {figures.mean_abs, figures.max_abs, figures.relative, result.steps};
}

}  // namespace

const char* library_version() noexcept { return HALFQUAD_VERSION; }

QuantizedShape quantized_shape(std::int64_t rows, std::int64_t cols, const QuantizeSettings& settings) {
  return guarded([&] { return shape_of(spec_of(rows, cols, settings), rows, cols, stored_dtype(settings)); });
}

QuantizeErrors quantize(const WeightMatrix& weights, const QuantizeSettings& settings, const QuantizedBuffers& out) {
  return guarded([&] {
    const QuantSpec spec = spec_of(weights.rows, weights.cols, settings);
    const DType stored = stored_dtype(settings);
    HALFQUAD_REQUIRE(weights.data != nullptr, kUsage, "the matrix has no data: WeightMatrix::data is null");
    HALFQUAD_REQUIRE(settings.threads >= 1 && settings.threads <= kMostThreads, kUsage,
                     fmt::format("settings.threads is {}; choose 1 to {}", settings.threads, kMostThreads));
    require_buffers(out, shape_of(spec, weights.rows, weights.cols, stored));
    const Matrix matrix{static_cast<const std::byte*>(weights.data), dtype_of(weights.type), weights.rows,
                        weights.cols};
    const MatrixOptions options{
        .stored = stored, .threads = settings.threads, .make_solver = [] { return make_simd_solver(); }};
    const MatrixResult result =
        quantize_matrix(matrix, spec, options, {out.codes.data(), out.scale.data(), out.zero.data()});
    return errors_of(result, weights.rows * weights.cols);
  });
}

void dequantize(const QuantizedMatrix& quantized, std::int64_t rows, std::int64_t cols,
                const QuantizeSettings& settings, std::span<float> weights) {
  guarded([&] {
    const QuantSpec spec = spec_of(rows, cols, settings);
    const DType stored = stored_dtype(settings);
    require_buffers(quantized, shape_of(spec, rows, cols, stored));
    HALFQUAD_REQUIRE(
        weights.size() >= static_cast<std::size_t>(rows * cols), kUsage,
        fmt::format("the buffer of the weights has {} elements, but {} are needed", weights.size(), rows * cols));
    dequantize_matrix({quantized.codes.data(), quantized.scale.data(), quantized.zero.data()}, rows, cols, spec, stored,
                      weights.data());
  });
}

}  // namespace halfquad
