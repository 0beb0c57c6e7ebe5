// Solvers that weigh the columns of a tensor: nothing of it is solved before all of it was seen.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/column_importance.h"
#include "kernels/decode.h"
#include "kernels/pack.h"
#include "kernels/solver.h"
#include "sharding/decision_board.h"
#include "sharding/given_importance.h"
#include "sharding/plan.h"
#include "sharding/stored_grid.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

using test::Ran;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMiB = 1 << 20;

test::ModelLayer als(const char* module, std::int64_t rows, std::int64_t cols, DType dtype, QuantSpec spec) {
  spec.solver = SolverKind::kAls;
  return {module, rows, cols, dtype, spec};
}

std::vector<test::ModelLayer> layers() {
  using enum CodeWidth;
  return {
      als("a.k8", 48, 128, DType::kBF16, {.width = k8}),
      als("a.k3", 47, 192, DType::kF64, {.width = k3}),
      als("a.rows", 40, 96, DType::kF16, {.width = k2, .group_size = 0}),
      als("a.few_rows", 20, 128, DType::kF32, {.width = k4}),
      als("a.astride", 64, 96, DType::kBF16, {.width = k4, .group_size = 64}),  // groups that end inside a row
      als("a.alike", 64, 128, DType::kBF16, {.width = k4, .importance = Importance::kNone}),
      als("a.power", 64, 128, DType::kBF16, {.width = k3, .importance_power = 0.5}),
      {"b.hqq", 64, 128, DType::kBF16, {.width = CodeWidth::k4}},
  };
}

std::vector<test::ModelLayer> layers_of_tiles() {
  std::vector<test::ModelLayer> all = layers();
  all.push_back(als("l.k4", 2400, 5120, DType::kBF16, {.width = CodeWidth::k4}));
  all.push_back(als("l.k3", 1300, 4096, DType::kF16, {.width = CodeWidth::k3, .rounds = 2}));
  return all;
}

const RunnerModel& model_of_tiles() {
  static const RunnerModel kModel(layers_of_tiles(), test::kept_tensors());
  return kModel;
}

/// The dequantized weights of a layer whose columns count `h`, solved and stored by the definition.
std::vector<float> expected_weights(const test::TestTensor& source, const QuantizedTensor& tensor,
                                    const std::vector<float>& h) {
  const auto* const data = reinterpret_cast<const std::byte*>(source.bytes.data());
  const std::int64_t count = tensor.rows * tensor.cols;
  const GroupedShape shape = grouped_shape(tensor.spec, tensor.rows, tensor.cols);
  const GroupBlock block{data,
                         source.dtype,
                         shape.groups,
                         shape.group_elems,
                         shape.group_elems,
                         1,
                         {tensor.spec.weighted() ? h.data() : nullptr, tensor.cols, 0}};
  const auto groups = static_cast<std::size_t>(shape.groups);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
  std::vector<float> s(groups), z(groups), inverse(groups), stored(groups);
  const auto solver = make_reference_solver();
  SolveStats stats;
  solver->solve(block, {.spec = tensor.spec, .record = RecordErrors::kNo, .finish = Finish::kGridOnly},
                {codes.data(), shape.group_elems, 1, s.data(), z.data()}, stats);
  for (std::size_t g = 0; g < groups; ++g) {
    inverse[g] = 1 / s[g];
    stored[g] = std::max(round_to(DType::kF16, s[g]), 0x1p-24F);
  }
  solver->refit_zeros(block, tensor.spec.width, {inverse.data(), s.data(), z.data()}, stored.data(), z.data());
  for (std::size_t g = 0; g < groups; ++g) {
    z[g] = round_to(DType::kF16, z[g]);
    inverse[g] = 1 / stored[g];
  }
  solver->encode_groups(block, tensor.spec.width, {inverse.data(), stored.data(), z.data()},
                        {codes.data(), shape.group_elems, 1, nullptr, nullptr}, stats);
  std::vector<float> weights(codes.size());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const std::size_t g = i / static_cast<std::size_t>(shape.group_elems);
    weights[i] = (static_cast<float>(codes[i]) - z[g]) * stored[g];
  }
  return weights;
}

/// The same with what the columns themselves say.
std::vector<float> expected_weights(const test::TestTensor& source, const QuantizedTensor& tensor) {
  ColumnMoments moments(tensor.cols);
  moments.add(reinterpret_cast<const std::byte*>(source.bytes.data()), source.dtype, 0, tensor.rows * tensor.cols);
  return expected_weights(source, tensor,
                          column_importance(moments, tensor.rows, {.power = tensor.spec.importance_power}));
}

std::vector<float> floats(std::string_view bytes, DType dtype) {
  std::vector<float> values(bytes.size() / static_cast<std::size_t>(bytes_of(dtype)));
  decode_to_f32(reinterpret_cast<const std::byte*>(bytes.data()), dtype, static_cast<std::int64_t>(values.size()),
                values.data());
  return values;
}

/// What the written file says of a layer.
std::vector<float> written_weights(const Ran& ran, const RunnerModel& model, const QuantizedTensor& tensor) {
  const auto written = [&](std::size_t entry) {
    return RunnerModel::tensor_bytes(ran.file, model.layout().entries()[entry]);
  };
  const std::string_view packed = written(tensor.codes);
  const std::vector<float> s = floats(written(tensor.scale), DType::kF16);
  const std::vector<float> z = floats(written(tensor.zero), DType::kF16);
  const std::int64_t rows = tensor.tiles.packed_rows();
  const std::int64_t cols = tensor.tiles.grouped().cols;
  const auto slabs = static_cast<std::size_t>(slabs_of(tensor.tiles.packing()));
  std::vector<std::uint8_t> codes(slabs * static_cast<std::size_t>(rows * cols));
  std::vector<std::uint8_t*> places;
  for (std::size_t slab = 0; slab < slabs; ++slab) {
    places.push_back(codes.data() + slab * static_cast<std::size_t>(rows * cols));
  }
  unpack_codes(tensor.tiles.packing(), reinterpret_cast<const std::byte*>(packed.data()), rows * cols, places);
  std::vector<float> weights(static_cast<std::size_t>(tensor.rows * tensor.cols));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::size_t g = i / static_cast<std::size_t>(cols);
    weights[i] = (static_cast<float>(codes[i]) - z[g]) * s[g];
  }
  return weights;
}

TEST(RunPlanColumns, LayersComeOutAsTheDefinitionSays) {
  const RunnerModel model(layers(), test::kept_tensors());

  const Ran ran = model.run(run_options(2, 64 * kMiB, [] { return make_reference_solver(); }));

  for (const QuantizedTensor& tensor : model.layout().quantized()) {
    if (tensor.spec.solver != SolverKind::kAls) continue;
    const test::TestTensor& source = model.source()[tensor.source];
    EXPECT_EQ(written_weights(ran, model, tensor), expected_weights(source, tensor)) << tensor.module;
  }
}

TEST(RunPlanColumns, ImportanceOfAFileTakesThePlaceOfWhatTheColumnsSay) {
  std::vector<test::ModelLayer> all = layers_of_tiles();
  for (test::ModelLayer& layer : all) layer.spec.importance = Importance::kFile;
  const RunnerModel model(all, test::kept_tensors());
  const test::TempDir folder;
  std::vector<test::TestTensor> vectors;
  std::vector<Decision> decisions;
  for (const QuantizedTensor& tensor : model.layout().quantized()) {
    std::vector<float> measures;
    for (std::int64_t col = 0; col < tensor.cols; ++col) measures.push_back(static_cast<float>(1 + col * col % 83));
    vectors.push_back(test::f32_tensor(tensor.module, {tensor.cols}, measures));
    Decision& decision = decisions.emplace_back();
    decision.source = tensor.source;
    decision.spec = tensor.spec;
  }
  test::put_safetensors(folder.path() / "given.safetensors", vectors);
  GivenImportance importance(model.files(), folder.path() / "given.safetensors");
  importance.assign(model.checkpoint(), decisions);

  RunOptions options = run_options(2, 256 * kMiB);
  options.importance = &importance;
  const Ran ran = model.run(options);

  for (const QuantizedTensor& tensor : model.layout().quantized()) {
    if (!tensor.takes_importance() || tensor.rows > 1000) continue;
    const auto h = importance.weights_of(tensor.source, tensor.spec.importance_power);
    EXPECT_EQ(written_weights(ran, model, tensor), expected_weights(model.source()[tensor.source], tensor, *h))
        << tensor.module;
  }
  for (const int threads : {1, 4}) {
    RunOptions other = run_options(threads, threads == 1 ? minimum_memory(model.plan()) : 64 * kMiB);
    other.importance = &importance;
    const Ran again = model.run(other);
    EXPECT_TRUE(again.file == ran.file) << threads;
    EXPECT_EQ(again.result.tiles_reread, 0U) << "nothing waits for a decision";
  }
}

TEST(RunPlanColumns, ImportanceChangesWhatIsFound) {
  const RunnerModel model(layers(), test::kept_tensors());
  for (const QuantizedTensor& tensor : model.layout().quantized()) {
    if (!tensor.weighs_columns() || tensor.rows < 32) continue;
    QuantizedTensor alike = tensor;
    alike.spec.importance = Importance::kNone;
    const test::TestTensor& source = model.source()[tensor.source];
    EXPECT_NE(expected_weights(source, alike), expected_weights(source, tensor)) << tensor.module;
  }
}

TEST(RunPlanColumns, BytesDependOnNoThreadsMemoryOrInstructionSet) {
  const RunnerModel& model = model_of_tiles();
  const Ran expected = model.run(run_options(1, 1024 * kMiB));
  EXPECT_EQ(expected.result.tiles_reread, 0U);
  for (const int threads : {1, 4}) {
    for (const std::uint64_t memory : {minimum_memory(model.plan()), 64 * kMiB}) {
      SCOPED_TRACE(memory);
      const Ran ran = model.run(run_options(threads, memory));
      EXPECT_TRUE(ran.file == expected.file);
      EXPECT_EQ(ran.result.checksums, expected.result.checksums);
      EXPECT_EQ(ran.weights_done, expected.weights_done);
      EXPECT_LE(ran.result.peak_buffer_bytes, memory);
      EXPECT_EQ(ran.result.tiles_reread > 0, memory < 64 * kMiB);
    }
  }
  for (const std::string& target : simd_targets()) {
    const Ran ran = model.run(run_options(2, 256 * kMiB, [&] { return make_simd_solver(target); }));
    EXPECT_TRUE(ran.file == expected.file) << target;
  }
}

TEST(FirstPasses, ColumnsSurviveTheWire) {
  const std::vector<float> weights{1, -2, 3, 0, 1e-30F, -5};
  FirstPasses passes;
  passes.tensor = 3;
  passes.tiles = 2;
  passes.columns.emplace(3);
  passes.columns->add(reinterpret_cast<const std::byte*>(weights.data()), DType::kF32, 0, 6);
  WireWriter out;
  passes.write(out);
  const std::vector<std::byte> bytes = out.take();
  WireReader in(bytes);

  FirstPasses read = FirstPasses::read(in);

  EXPECT_TRUE(in.empty());
  ASSERT_TRUE(read.columns.has_value());
  ASSERT_EQ(read.columns->cols(), 3);
  for (std::int64_t col = 0; col < 3; ++col) {
    EXPECT_EQ(read.columns->abs_sum(col), passes.columns->abs_sum(col));
    EXPECT_EQ(read.columns->square_sum(col), passes.columns->square_sum(col));
  }
  EXPECT_EQ(read.columns->abs_sum(2), 8);
  WireReader again(bytes);
  read.add(FirstPasses::read(again));
  EXPECT_EQ(read.tiles, 4);
  EXPECT_EQ(read.columns->abs_sum(2), 16);
}

}  // namespace
}  // namespace halfquad
