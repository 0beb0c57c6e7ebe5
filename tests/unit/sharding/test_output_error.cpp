#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/blas_feature.h"
#include "kernels/decode.h"
#include "sharding/dequantize.h"
#include "sharding/output_error.h"
#include "sharding/stored_tile.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using test::f32_tensor;
using test::TestTensor;
using test::TinyOutput;

using Matrix = std::vector<double>;  // row-major

/// Everything about a TinyOutput that the measurement needs, opened.
struct Opened {
  explicit Opened(const TinyOutput& from)
      : tiny(from), output(*from.fs, from.output_path), source(*from.fs, from.source_path) {
    for (const StoredLayer& layer : output.layers()) {
      layers.push_back({.layer = &layer, .original = source.find(layer.module + ".weight")});
    }
  }

  [[nodiscard]] OutputErrors measure(const Activations& inputs, OutputErrorOptions options = {}) const {
    if (!options.make_gemm) options.make_gemm = make_plain_gemm;
    return measure_output_errors(*tiny.fs, output, source, layers, inputs, options, progress, stop);
  }

  const TinyOutput& tiny;
  QuantizedModel output;
  Checkpoint source;
  std::vector<OutputErrorLayer> layers;
  mutable ProgressCounters progress;
  StopFlag stop;
};

/// A whole tensor, NaN and infinity as zero.
Matrix read_all(FileSystem& fs, const Checkpoint& checkpoint, const SourceTensor& tensor) {
  const OpenCheckpoint files(fs, checkpoint, ReadMode::kBuffered);
  BufferPool pool(OpenCheckpoint::kScratchBytes);
  const Buffer scratch = pool.acquire(OpenCheckpoint::kScratchBytes);
  std::vector<std::byte> bytes(tensor.bytes);
  const ByteRange all{0, tensor.bytes};
  files.gather(tensor, {&all, 1}, scratch.bytes(), bytes.data());
  zero_nonfinite(bytes.data(), tensor.dtype, tensor.elements());
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  decode_to_f32(bytes.data(), tensor.dtype, tensor.elements(), values.data());
  return {values.begin(), values.end()};
}

Matrix inputs_of(const Activations& activations, const StoredLayer& layer) {
  if (activations.samples(layer) == 0) return {};
  BufferPool pool(OpenCheckpoint::kScratchBytes);
  const Buffer scratch = pool.acquire(OpenCheckpoint::kScratchBytes);
  std::vector<float> values(static_cast<std::size_t>(activations.samples(layer) * layer.cols));
  activations.load({.layer = &layer, .first = 0, .count = activations.samples(layer)}, scratch.bytes(), values.data());
  return {values.begin(), values.end()};
}

/// Plain loops in double over the source and what dequantizing the output gives.
std::vector<OutputError> expected_errors(const Opened& opened, const Activations& activations) {
  const std::filesystem::path plain = opened.tiny.temp.path() / "plain.safetensors";
  ProgressCounters progress;
  dequantize(*opened.tiny.fs, opened.output, plain, {.dtype = DType::kF32}, progress, opened.stop);
  const Checkpoint dequantized(*opened.tiny.fs, plain);
  std::vector<OutputError> out;
  for (const OutputErrorLayer& layer : opened.layers) {
    const Matrix w = read_all(*opened.tiny.fs, opened.source, *layer.original);
    const Matrix what = read_all(*opened.tiny.fs, dequantized, *dequantized.find(layer.original->name));
    const Matrix x = inputs_of(activations, *layer.layer);
    OutputError error{.samples = activations.samples(*layer.layer)};
    const auto cols = static_cast<std::size_t>(layer.layer->cols);
    for (std::size_t n = 0; n < x.size(); n += cols) {
      for (std::size_t row = 0; row < w.size(); row += cols) {
        double signal = 0, difference = 0;
        for (std::size_t k = 0; k < cols; ++k) {
          signal += x[n + k] * w[row + k];
          difference += x[n + k] * (w[row + k] - what[row + k]);
        }
        error.signal2 += signal * signal;
        error.square += difference * difference;
      }
    }
    out.push_back(error);
  }
  return out;
}

void expect_equal(const OutputError& found, const OutputError& wanted) {
  EXPECT_EQ(found.samples, wanted.samples);
  EXPECT_NEAR(found.square, wanted.square, 1e-5 * wanted.square);
  EXPECT_NEAR(found.signal2, wanted.signal2, 1e-5 * wanted.signal2);
  ASSERT_EQ(found.relative().has_value(), wanted.relative().has_value());
  // A tenth of what is promised.
  if (wanted.relative()) {
    EXPECT_NEAR(*found.relative(), *wanted.relative(), 0.1 * kOutputErrorTolerance * *wanted.relative());
  }
}

void expect_equal(const Opened& opened, const OutputErrors& found, const std::vector<OutputError>& wanted) {
  ASSERT_EQ(found.layers.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    SCOPED_TRACE(opened.layers[i].layer->module);
    expect_equal(found.layers[i], wanted[i]);
  }
}

QuantSpec round_to_nearest(CodeWidth width, std::int64_t group_size, int axis) {
  QuantSpec spec;
  spec.solver = SolverKind::kRtn;
  spec.width = width;
  spec.group_size = group_size;
  spec.axis = axis;
  return spec;
}

TinyOutput one_layer() {
  return TinyOutput({{"model.layers.0.q", 16, 64, DType::kBF16, round_to_nearest(CodeWidth::k4, 64, 1)}});
}

/// Layers that are cut into several tiles, in every way their weights can lie in them.
TinyOutput tiled_layers() {
  return TinyOutput({{"model.layers.0.a", 2050, 2112, DType::kBF16, round_to_nearest(CodeWidth::k4, 64, 1)},
                     {"model.layers.0.b", 2112, 2050, DType::kBF16, round_to_nearest(CodeWidth::k4, 64, 0)},
                     {"model.layers.0.c", 2050, 2112, DType::kF16, round_to_nearest(CodeWidth::k8, 0, 0)},
                     {"model.layers.0.d", 2, 600000, DType::kBF16, round_to_nearest(CodeWidth::k4, 64, 1)}});
}

TEST(OutputError, IsWhatOneComputesByHand) {
  TinyOutput tiny({{"model.layers.0.q", 2, 8, DType::kF32, round_to_nearest(CodeWidth::k8, 0, 1)}});
  tiny.source_tensor("model.layers.0.q.weight") =
      f32_tensor("model.layers.0.q.weight", {2, 8}, {1, 0, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, -1});
  tiny.write_source();
  // What stands for them: code 4 at scale 0.5 and zero 2 is 1, code 7 is 2.5; code 9 at scale 0.5 and zero 4 is 2.5.
  tiny.tensor("model.layers.0.q.W_q").bytes = std::string("\4\2\7\2\2\2\2\2\4\x9\4\4\4\4\4\2", 16);
  const auto f16 = [](std::vector<std::uint16_t> bits) { return std::string(reinterpret_cast<char*>(bits.data()), 4); };
  tiny.tensor("model.layers.0.q.scale").bytes = f16({f32_to_f16(0.5F), f32_to_f16(0.5F)});
  tiny.tensor("model.layers.0.q.zero").bytes = f16({f32_to_f16(2), f32_to_f16(4)});
  tiny.write_output();
  const std::filesystem::path file = tiny.temp.path() / "inputs.safetensors";
  test::put_safetensors(file,
                        {f32_tensor("model.layers.0.q", {2, 8}, {1, 1, 2, 0, 0, 0, 0, 4, 0, 2, 0, 0, 0, 0, 0, 1})});
  const Opened opened(tiny);

  const auto inputs = open_activations(*tiny.fs, file, ReadMode::kBuffered, opened.output.layers());
  const OutputErrors found = opened.measure(*inputs);

  // X Wᵀ = [[1 + 4, 3 - 4], [0, 6 - 1]]; W - Ŵ = [[0, 0, -0.5, 0...], [0, 0.5, 0...]] but for -1 - (2 - 4)/2 = 0.
  // X (W - Ŵ)ᵀ = [[-1, 0.5], [0, 1]].
  ASSERT_EQ(found.layers.size(), 1U);
  EXPECT_EQ(found.layers[0].samples, 2);
  EXPECT_EQ(found.layers[0].signal2, 25 + 1 + 25);
  EXPECT_EQ(found.layers[0].square, 1 + 0.25 + 1);
  EXPECT_EQ(found.layers[0].relative(), std::sqrt(2.25 / 51));
}

TEST(OutputError, AgreesWithDoubleLoopsForLayersOfEveryKind) {
  for (const DType stored : {DType::kF16, DType::kBF16, DType::kF32}) {
    const TinyOutput tiny(test::every_kind_of_layer(), stored);
    const Opened opened(tiny);
    const auto inputs = make_random_activations(7, 3);

    expect_equal(opened, opened.measure(*inputs, {.threads = 2, .make_gemm = {}}), expected_errors(opened, *inputs));
  }
}

TEST(OutputError, DoesNotDependOnThreadsMemoryOrBackend) {
  const TinyOutput tiny = tiled_layers();
  const Opened opened(tiny);
  for (std::size_t i = 0; i < 3; ++i) ASSERT_GE(opened.layers[i].layer->tiles.tile_count(), 2);
  const auto inputs = make_random_activations(10, 0);
  const std::vector<OutputError> wanted = expected_errors(opened, *inputs);

  expect_equal(opened, opened.measure(*inputs, {.threads = 1, .make_gemm = {}}), wanted);
  expect_equal(opened, opened.measure(*inputs, {.threads = 3, .make_gemm = {}}), wanted);
  // Room for a worker and four samples of the widest layer, so that this one is measured in parts.
  const OutputErrors parts = opened.measure(*inputs, {.memory_bytes = 45 << 20, .make_gemm = {}});
  expect_equal(opened, parts, wanted);
  std::uint64_t source_bytes = 0;
  for (const OutputErrorLayer& layer : opened.layers) source_bytes += layer.original->bytes;
  EXPECT_EQ(opened.progress.source_bytes_done, 3 * source_bytes);  // of three measurements, in parts or not
  EXPECT_GT(parts.bytes_read, opened.measure(*inputs).bytes_read);
  if (blas_feature().available) {
    expect_equal(opened, opened.measure(*inputs, {.threads = 2, .make_gemm = make_blas_gemm}), wanted);
  }
}

TEST(OutputError, OfAPerfectReconstructionIsZero) {
  TinyOutput tiny = one_layer();
  const Opened before(tiny);
  const std::filesystem::path plain = tiny.temp.path() / "plain.safetensors";
  ProgressCounters progress;
  dequantize(*tiny.fs, before.output, plain, {.dtype = DType::kF32}, progress, before.stop);
  const Checkpoint dequantized(*tiny.fs, plain);
  const Matrix what = read_all(*tiny.fs, dequantized, *dequantized.find("model.layers.0.q.weight"));
  tiny.source_tensor("model.layers.0.q.weight") =
      f32_tensor("model.layers.0.q.weight", {16, 64}, {what.begin(), what.end()});
  tiny.write_source();
  const Opened opened(tiny);

  const OutputErrors found = opened.measure(*make_random_activations(5, 0));

  EXPECT_EQ(found.layers[0].square, 0);
  EXPECT_GT(found.layers[0].signal2, 0);
  EXPECT_EQ(found.layers[0].relative(), 0);
}

TEST(OutputError, CountsNanAndInfinityOfTheSourceAsZero) {
  TinyOutput tiny = one_layer();
  std::string& bytes = tiny.source_tensor("model.layers.0.q.weight").bytes;
  bytes.replace(2 * 5, 2, "\xc0\x7f");   // NaN
  bytes.replace(2 * 70, 2, "\x80\xff");  // -infinity
  tiny.write_source();
  const Opened opened(tiny);
  const auto inputs = make_random_activations(6, 0);

  const OutputErrors found = opened.measure(*inputs);

  ASSERT_TRUE(found.layers[0].relative());
  expect_equal(opened, found, expected_errors(opened, *inputs));
}

TEST(OutputError, OfZeroOrBoundlessOutputsIsNotDefined) {
  TinyOutput tiny = one_layer();
  const std::filesystem::path file = tiny.temp.path() / "inputs.safetensors";
  const auto measure = [&](float value) {
    test::put_safetensors(file, {f32_tensor("model.layers.0.q", {1, 64}, std::vector<float>(64, value))});
    const Opened opened(tiny);
    return opened.measure(*open_activations(*tiny.fs, file, ReadMode::kAuto, opened.output.layers())).layers.at(0);
  };

  EXPECT_EQ(measure(0).relative(), std::nullopt);
  EXPECT_EQ(measure(0).signal2, 0);
  EXPECT_EQ(measure(3e38F).relative(), std::nullopt);
  EXPECT_TRUE(measure(1).relative());
}

TEST(OutputError, LeavesLayersWithoutInputsOut) {
  TinyOutput tiny({{"model.layers.0.q", 16, 64, DType::kBF16, round_to_nearest(CodeWidth::k4, 64, 1)},
                   {"model.layers.1.q", 8, 32, DType::kBF16, round_to_nearest(CodeWidth::k4, 32, 1)}});
  const std::filesystem::path file = tiny.temp.path() / "inputs.safetensors";
  test::put_safetensors(file, {f32_tensor("model.layers.1.q", {3, 32}, std::vector<float>(96, 0.5F)),
                               f32_tensor("something.else", {1}, {1})});
  const Opened opened(tiny);
  const auto inputs = open_activations(*tiny.fs, file, ReadMode::kAuto, opened.output.layers());

  const OutputErrors found = opened.measure(*inputs);

  EXPECT_EQ(found.layers[0].samples, 0);
  EXPECT_EQ(found.layers[0].relative(), std::nullopt);
  EXPECT_EQ(found.layers[1].samples, 3);
  expect_equal(found.layers[1], expected_errors(opened, *inputs)[1]);
}

TEST(OutputError, ReadsEverythingOnce) {
  const TinyOutput tiny = one_layer();
  const Opened opened(tiny);

  const OutputErrors found = opened.measure(*make_random_activations(5, 0));

  const std::uint64_t weights = 16 * 64 * 2;
  EXPECT_EQ(found.bytes_read, weights + 16 * 64 / 2 + 2 * 16 * 2);
  EXPECT_EQ(opened.progress.bytes_read, found.bytes_read);
  EXPECT_EQ(opened.progress.source_bytes_done, weights);
}

TEST(OutputError, RefusesABudgetBelowOneTileAndAFewSamples) {
  const TinyOutput tiny = one_layer();
  const Opened opened(tiny);

  test::expect_error(ErrorCode::kOutOfMemory, {"output errors", "a tile", "1.0 MiB"}, [&] {
    static_cast<void>(opened.measure(*make_random_activations(5, 0), {.memory_bytes = 1 << 20, .make_gemm = {}}));
  });
}

TEST(OutputError, StopsWhenAsked) {
  const TinyOutput tiny = one_layer();
  Opened opened(tiny);
  opened.stop.request();

  test::expect_error(ErrorCode::kInterrupted, {"interrupted"},
                     [&] { static_cast<void>(opened.measure(*make_random_activations(5, 0))); });
}

}  // namespace
}  // namespace halfquad
