// Layers on floating-point grids: a scale of the tensor, or of several that engines merge, is known before any is
// solved.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/column_importance.h"
#include "kernels/float_grid.h"
#include "kernels/solver.h"
#include "sharding/formats/float_rows.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

using test::Ran;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMiB = 1 << 20;

test::ModelLayer on_grid(const char* module, std::int64_t rows, std::int64_t cols, DType dtype, QuantSpec spec) {
  spec.group_size = group_size_of(spec.grid);
  spec.zeros = ZeroKind::kSymmetric;
  return {module, rows, cols, dtype, spec};
}

std::vector<test::ModelLayer> layers() {
  constexpr auto kNv = FloatGrid::kNvfp4;
  constexpr auto kMx = FloatGrid::kMxfp4;
  constexpr auto kAls = SolverKind::kAls;
  return {
      on_grid("l.0.k_proj", 64, 128, DType::kBF16, {.solver = kAls, .grid = kNv}),
      on_grid("l.0.o_proj", 47, 112, DType::kF32, {.solver = kAls, .grid = kNv, .importance = Importance::kNone}),
      on_grid("l.0.q_proj", 2400, 5120, DType::kBF16, {.solver = kAls, .grid = kNv}),  // three tiles
      on_grid("l.0.v_proj", 96, 128, DType::kF16, {.solver = kAls, .grid = kNv}),
      on_grid("l.1.down_proj", 40, 96, DType::kF64, {.solver = kAls, .grid = kMx}),
      on_grid("l.1.o_proj", 33, 64, DType::kBF16, {.solver = SolverKind::kRtn, .grid = kMx}),
      on_grid("l.1.up_proj", 1300, 4096, DType::kF16, {.solver = kAls, .grid = kMx}),
      on_grid("l.2.o_proj", 64, 64, DType::kBF16, {.solver = SolverKind::kRtn, .grid = kNv}),
  };
}

const RunnerModel& model() {
  static const RunnerModel kModel(layers(), *format_named("compressed-tensors"));
  return kModel;
}

float expected_tensor_scale(const QuantizedTensor& tensor) {
  if (tensor.spec.grid != FloatGrid::kNvfp4) return 1;
  float largest = 0;
  const bool merged = tensor.module.starts_with("l.0.") && tensor.module != "l.0.o_proj";
  for (const QuantizedTensor& other : model().layout().quantized()) {
    const bool shares = merged && other.module.starts_with("l.0.") && other.module != "l.0.o_proj";
    if (other.module != tensor.module && !shares) continue;
    for (const float w : model().weights_of(other)) largest = std::max(largest, std::abs(w));
  }
  return tensor_scale_of(largest);
}

/// The bytes of codes and scales, by the definition.
std::pair<std::string, std::string> expected_bytes(const QuantizedTensor& tensor) {
  const test::TestTensor& source = model().source()[tensor.source];
  const std::vector<float> weights = model().weights_of(tensor);
  const std::int64_t count = tensor.rows * tensor.cols;
  ColumnMoments moments(tensor.cols);
  moments.add(reinterpret_cast<const std::byte*>(source.bytes.data()), source.dtype, 0, count);
  const std::vector<float> h = column_importance(moments, tensor.rows);
  std::vector<std::uint8_t> codes(weights.size());
  std::vector<float> scale(weights.size() / static_cast<std::size_t>(tensor.spec.group_size));
  make_reference_float_searcher()->run(
      {.grid = tensor.spec.grid,
       .tensor_scale = expected_tensor_scale(tensor),
       .weights = weights.data(),
       .groups = static_cast<std::int64_t>(scale.size()),
       .importance = tensor.weighs_columns() ? h.data() : nullptr,
       .cols = tensor.cols},
      tensor.spec.solver == SolverKind::kRtn ? ScaleSearch::kLargest : ScaleSearch::kBest,
      {codes.data(), scale.data()});
  std::pair<std::string, std::string> bytes{std::string(codes.size() / 2, '\0'), std::string(scale.size(), '\0')};
  const RowShape shape{tensor.spec, tensor.rows, tensor.cols, DType::kF16, expected_tensor_scale(tensor)};
  const auto place = [](std::string& text) -> LineBytes<std::byte> {
    return {reinterpret_cast<std::byte*>(text.data()), text.size()};
  };
  FloatRows().pack(shape, {tensor.rows, codes.data(), scale.data(), nullptr},
                   {place(bytes.first), place(bytes.second), {}});
  return bytes;
}

TEST(RunPlanFloats, LayersComeOutAsTheDefinitionSays) {
  const Ran ran = model().run(run_options(2, 256 * kMiB));
  const auto written = [&](std::size_t entry) {
    return RunnerModel::tensor_bytes(ran.file, model().layout().entries()[entry]);
  };
  for (const QuantizedTensor& tensor : model().layout().quantized()) {
    const auto [codes, scale] = expected_bytes(tensor);
    EXPECT_TRUE(written(tensor.codes) == codes) << tensor.module;
    EXPECT_TRUE(written(tensor.scale) == scale) << tensor.module;
    ASSERT_EQ(tensor.tensor_scale != QuantizedTensor::kNoEntry, tensor.spec.grid == FloatGrid::kNvfp4);
    if (tensor.tensor_scale == QuantizedTensor::kNoEntry) continue;
    float stored = 0;
    std::memcpy(&stored, written(tensor.tensor_scale).data(), sizeof stored);
    EXPECT_EQ(stored, expected_tensor_scale(tensor)) << tensor.module;
  }
}

TEST(RunPlanFloats, BytesDependOnNoThreadsOrMemory) {
  const Ran expected = model().run(run_options(1, 1024 * kMiB));
  EXPECT_EQ(expected.result.tiles_reread, 0U);
  for (const int threads : {1, 4}) {
    for (const std::uint64_t memory : {minimum_memory(model().plan()), 64 * kMiB}) {
      SCOPED_TRACE(memory);
      const Ran ran = model().run(run_options(threads, memory));
      EXPECT_TRUE(ran.file == expected.file);
      EXPECT_EQ(ran.result.checksums, expected.result.checksums);
      EXPECT_LE(ran.result.peak_buffer_bytes, memory);
      EXPECT_EQ(ran.result.tiles_reread > 0, memory < 64 * kMiB);
    }
  }
}

}  // namespace
}  // namespace halfquad
