// Layers on grids with levels, in HDF5: tables that are fitted to a tensor are known before any group is solved.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/column_importance.h"
#include "kernels/decode.h"
#include "kernels/float_grid.h"
#include "kernels/level_grid.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

using test::Ran;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMiB = 1 << 20;

test::ModelLayer on_grid(const char* module, std::int64_t rows, std::int64_t cols, DType dtype, QuantSpec spec) {
  spec.width = level_width(spec.grid);
  spec.zeros = ZeroKind::kSymmetric;
  if (spec.solver == SolverKind::kHqq) spec.solver = SolverKind::kAls;
  return {module, rows, cols, dtype, spec};
}

std::vector<test::ModelLayer> layers() {
  constexpr auto kNone = Importance::kNone;
  return {
      on_grid("l.0.down_proj", 2400, 5120, DType::kBF16,
              {.grid = FloatGrid::kLearned4, .starts = 1, .rounds = 1}),  // three tiles
      on_grid("l.0.k_proj", 64, 128, DType::kF16, {.grid = FloatGrid::kLearned3, .importance = kNone}),
      on_grid("l.0.o_proj", 48, 96, DType::kF32, {.group_size = 0, .grid = FloatGrid::kNf4}),
      on_grid("l.0.q_proj", 33, 120, DType::kBF16, {.group_size = 40, .grid = FloatGrid::kFp3E2M0}),
      on_grid("l.0.v_proj", 40, 96, DType::kF64, {.group_size = 32, .grid = FloatGrid::kFp4, .starts = 2}),
      on_grid("l.1.k_proj", 33, 64, DType::kBF16, {.solver = SolverKind::kRtn, .grid = FloatGrid::kLearned4}),
      on_grid("l.1.q_proj", 64, 64, DType::kBF16, {.solver = SolverKind::kRtn, .grid = FloatGrid::kFp3E1M1}),
  };
}

const RunnerModel& model() {
  static const RunnerModel kModel(layers(), *format_named("hdf5"));
  return kModel;
}

/// What rows [begin, end) of a layer say of its columns.
std::vector<float> importance_of_rows(const QuantizedTensor& tensor, std::int64_t begin, std::int64_t end) {
  if (!tensor.weighs_columns()) return {};
  const test::TestTensor& source = model().source()[tensor.source];
  const std::int64_t row_bytes = tensor.cols * bytes_of(source.dtype);
  ColumnMoments moments(tensor.cols);
  moments.add(reinterpret_cast<const std::byte*>(source.bytes.data()) + begin * row_bytes, source.dtype, 0,
              (end - begin) * tensor.cols);
  return column_importance(moments, end - begin);
}

std::int64_t group_elems(const QuantizedTensor& tensor) {
  return tensor.spec.group_size == 0 ? tensor.cols : tensor.spec.group_size;
}

Levels expected_levels(const QuantizedTensor& tensor, const std::vector<float>& weights) {
  if (const Levels* fixed = fixed_levels(tensor.spec.grid); fixed != nullptr) return *fixed;
  LevelHistogram histogram;
  for (std::int64_t tile = 0; tile < tensor.tiles.tile_count(); ++tile) {
    const std::int64_t begin = tensor.tiles.first_row(tile), end = tensor.tiles.end_row(tile);
    histogram.add(std::span(weights).subspan(static_cast<std::size_t>(begin * tensor.cols),
                                             static_cast<std::size_t>((end - begin) * tensor.cols)),
                  group_elems(tensor), importance_of_rows(tensor, begin, end));
  }
  return histogram.fit(level_count(tensor.spec.grid));
}

struct Bytes {
  std::string codes, scale, table;
};

/// By the definition.
Bytes expected_bytes(const QuantizedTensor& tensor) {
  const std::vector<float> weights = model().weights_of(tensor);
  const std::vector<float> h = importance_of_rows(tensor, 0, tensor.rows);
  const Levels levels = expected_levels(tensor, weights);
  std::vector<std::uint8_t> codes(weights.size());
  std::vector<float> scale(weights.size() / static_cast<std::size_t>(group_elems(tensor)));
  make_float_searcher()->run({.grid = tensor.spec.grid,
                              .weights = weights.data(),
                              .groups = static_cast<std::int64_t>(scale.size()),
                              .importance = h.empty() ? nullptr : h.data(),
                              .cols = tensor.cols,
                              .of_levels = {.levels = &levels,
                                            .group_elems = group_elems(tensor),
                                            .stored = model().layout().stored(),
                                            .starts = tensor.spec.starts,
                                            .rounds = tensor.spec.rounds}},
                             tensor.spec.solver == SolverKind::kRtn ? ScaleSearch::kLargest : ScaleSearch::kBest,
                             {codes.data(), scale.data()});
  const auto bits = static_cast<std::size_t>(bits_of(tensor.spec.width));
  const auto cols = static_cast<std::size_t>(tensor.cols);
  const std::size_t row_bytes = (cols * bits + 7) / 8;
  Bytes bytes;
  bytes.codes.resize(static_cast<std::size_t>(tensor.rows) * row_bytes);
  for (std::size_t i = 0; i < codes.size() * bits; ++i) {
    const std::size_t at = i / (cols * bits) * row_bytes * 8 + i % (cols * bits);
    const unsigned bit = codes[i / bits] >> (i % bits) & 1U;
    bytes.codes[at / 8] = static_cast<char>(static_cast<unsigned char>(bytes.codes[at / 8]) | bit << at % 8);
  }
  bytes.scale.resize(scale.size() * static_cast<std::size_t>(bytes_of(model().layout().stored())));
  encode_from_f32(scale.data(), model().layout().stored(), static_cast<std::int64_t>(scale.size()),
                  reinterpret_cast<std::byte*>(bytes.scale.data()));
  bytes.table.resize(static_cast<std::size_t>(level_count(tensor.spec.grid)) * sizeof(float));
  std::memcpy(bytes.table.data(), levels.data(), bytes.table.size());
  return bytes;
}

std::string written(const Ran& ran, const std::string& name) {
  const OutputLayout& layout = model().layout();
  for (std::size_t i = 0; i < layout.entries().size(); ++i) {
    if (layout.entries()[i].name == name) return ran.file.substr(layout.file_offset(i), layout.entries()[i].bytes());
  }
  ADD_FAILURE() << "there is no " << name;
  return {};
}

TEST(RunPlanLevels, LayersComeOutAsTheDefinitionSays) {
  const Ran ran = model().run(run_options(2, 256 * kMiB));
  for (const QuantizedTensor& tensor : model().layout().quantized()) {
    SCOPED_TRACE(tensor.module);
    const Bytes expected = expected_bytes(tensor);
    EXPECT_TRUE(written(ran, tensor.module + ".codes") == expected.codes);
    EXPECT_TRUE(written(ran, tensor.module + ".scale") == expected.scale);
    EXPECT_TRUE(written(ran, tensor.module + ".table") == expected.table);
  }
}

TEST(RunPlanLevels, BytesDependOnNoThreadsOrMemory) {
  const Ran expected = model().run(run_options(1, 1024 * kMiB));
  EXPECT_EQ(expected.result.tiles_reread, 0U);
  for (const int threads : {1, 4}) {
    const std::uint64_t memory = minimum_memory(model().plan());
    const Ran ran = model().run(run_options(threads, memory));
    EXPECT_TRUE(ran.file == expected.file);
    EXPECT_EQ(ran.result.checksums, expected.result.checksums);
    EXPECT_LE(ran.result.peak_buffer_bytes, memory);
    EXPECT_GT(ran.result.tiles_reread, 0U);
  }
}

}  // namespace
}  // namespace halfquad
