#include <atomic>
#include <cmath>
#include <cstdint>
#include <halfquad/checkpoint.h>
#include <halfquad/quantize.h>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/posix_file_system.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad::test {
namespace {

using testing::HasSubstr;

constexpr char kLayer[] = "model.layers.0.mlp.up_proj.weight";

std::vector<float> random_weights(std::int64_t count) {
  std::vector<float> weights(static_cast<std::size_t>(count));
  std::uint32_t state = 7;
  for (float& weight : weights) {
    state = state * 1664525U + 1013904223U;
    weight = std::tan(static_cast<float>(state >> 8U) / 16777216.0F - 0.5F);
  }
  return weights;
}

std::string bytes_of_tensor(const std::filesystem::path& file, const std::string& name) {
  const auto fs = make_posix_file_system();
  const Checkpoint checkpoint(*fs, file);
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    if (tensor.name == name) return get_file(file).substr(tensor.offset, tensor.bytes);
  }
  ADD_FAILURE() << file << " has no " << name;
  return {};
}

std::string text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

struct Buffers {
  std::vector<std::byte> codes, scale, zero;
  explicit Buffers(const QuantizedShape& shape)
      : codes(shape.code_bytes), scale(shape.scale_bytes), zero(shape.scale_bytes) {}
  [[nodiscard]] QuantizedBuffers out() { return {codes, scale, zero}; }
};

/// A checkpoint of one layer in a directory of its own.
class Library : public testing::Test {
 protected:
  static constexpr std::int64_t kRows = 320, kCols = 640;

  void SetUp() override {
    std::filesystem::create_directory(model_);
    put_safetensors(model_ / "model.safetensors", {f32_tensor(kLayer, {kRows, kCols}, weights_)});
    put_file(model_ / "config.json", R"({"model_type": "llama"})");
  }

  [[nodiscard]] CheckpointJob job() const {
    CheckpointJob job{.model = model_, .out = directory_.path() / "out"};
    job.threads = 2;
    return job;
  }

  TempDir directory_;
  std::filesystem::path model_ = directory_.path() / "model";
  std::vector<float> weights_ = random_weights(kRows * kCols);
};

struct Case {
  CodeBits bits;
  std::int64_t group_size;
  int axis;
  bool per_tensor;
  SolveMethod method;
  int steps = 0;
};

TEST_F(Library, MakesOfAMatrixWhatAJobMakesOfTheLayer) {
  constexpr auto kHqq = SolveMethod::kHalfQuadratic;
  bool stopped_early = false;
  for (const Case& c :
       {Case{CodeBits::k4, 64, 1, false, SolveMethod::kAutomatic}, Case{CodeBits::k3, 128, 1, false, kHqq},
        Case{CodeBits::k2, 64, 0, false, SolveMethod::kAutomatic}, Case{CodeBits::k8, 0, 1, false, kHqq, 400},
        Case{CodeBits::k4, 64, 1, false, kHqq, 400}, Case{CodeBits::k1_58, 32, 1, false, SolveMethod::kLeastSquares},
        Case{CodeBits::k3, 64, 0, false, kHqq}, Case{CodeBits::k5, 64, 1, true, SolveMethod::kAutomatic},
        Case{CodeBits::k1, 64, 1, false, SolveMethod::kRoundToNearest}}) {
    QuantizeSettings settings{.bits = c.bits, .group_size = c.group_size, .axis = c.axis, .per_tensor = c.per_tensor};
    settings.method = c.method;
    settings.steps = c.steps;
    settings.threads = 3;
    Buffers buffers(quantized_shape(kRows, kCols, settings));
    const QuantizeErrors errors = quantize({weights_.data(), FloatType::kF32, kRows, kCols}, settings, buffers.out());

    stopped_early = stopped_early || (c.steps > 0 && errors.steps < c.steps);

    CheckpointJob whole = job();
    whole.overwrite = true;
    whole.bits = c.bits;
    whole.group_size = c.group_size;
    whole.axis = c.axis;
    whole.per_tensor = c.per_tensor;
    whole.method = c.method;
    whole.steps = c.steps;
    const JobSummary summary = quantize_checkpoint(whole);
    const std::filesystem::path file = whole.out / "model.safetensors";
    const std::string module = "model.layers.0.mlp.up_proj.";
    EXPECT_TRUE(text(buffers.codes) == bytes_of_tensor(file, module + "W_q"));
    EXPECT_TRUE(text(buffers.scale) == bytes_of_tensor(file, module + "scale"));
    EXPECT_TRUE(text(buffers.zero) == bytes_of_tensor(file, module + "zero"));
    EXPECT_EQ(errors.mean_abs, summary.mean_abs_error);
    EXPECT_EQ(errors.relative, summary.relative_error);

    std::vector<float> again(weights_.size());
    dequantize({buffers.codes, buffers.scale, buffers.zero}, kRows, kCols, settings, again);
    double off = 0;
    for (std::size_t i = 0; i < again.size(); ++i) off += std::abs(double{weights_[i]} - double{again[i]});
    EXPECT_NEAR(off / static_cast<double>(again.size()), errors.mean_abs, 1e-5 * errors.mean_abs);
  }
  EXPECT_TRUE(stopped_early) << "no case in which a tensor is solved twice";
}

TEST_F(Library, WeighsColumnsAsTheJobSays) {
  const std::string module = "model.layers.0.mlp.up_proj";
  const auto codes_of = [&](CheckpointJob whole) {
    whole.overwrite = true;
    (void)quantize_checkpoint(whole);
    return bytes_of_tensor(whole.out / "model.safetensors", module + ".W_q");
  };
  QuantizeSettings settings;
  settings.weigh_columns = false;
  Buffers alike(quantized_shape(kRows, kCols, settings));
  (void)quantize({weights_.data(), FloatType::kF32, kRows, kCols}, settings, alike.out());
  std::vector<float> measured(kCols, 1);
  for (std::size_t column = 0; column < measured.size(); column += 7) measured[column] = 100;
  const std::filesystem::path file = directory_.path() / "importance.safetensors";
  put_safetensors(file, {f32_tensor(module, {kCols}, measured)});

  CheckpointJob none = job(), given = job(), flat = job(), narrow = job();
  none.importance = "none";
  given.importance = flat.importance = file.string();
  flat.importance_power = 0;
  narrow.starts = 1;
  const std::string guessed = codes_of(job()), weighed = codes_of(given);

  EXPECT_TRUE(codes_of(none) == text(alike.codes));
  EXPECT_TRUE(codes_of(flat) == text(alike.codes));
  EXPECT_FALSE(weighed == text(alike.codes));
  EXPECT_FALSE(weighed == guessed);
  EXPECT_FALSE(codes_of(narrow) == guessed);
}

TEST_F(Library, TakesMatricesOfManyTilesInSteps) {
  constexpr std::int64_t kManyRows = 5000, kManyCols = 2048;  // more than two tiles
  const std::vector<float> many = random_weights(kManyRows * kManyCols);
  QuantizeSettings settings{.bits = CodeBits::k4};
  settings.method = SolveMethod::kHalfQuadratic;
  Buffers one(quantized_shape(kManyRows, kManyCols, settings)), four(quantized_shape(kManyRows, kManyCols, settings));
  const auto first = quantize({many.data(), FloatType::kF32, kManyRows, kManyCols}, settings, one.out());
  settings.threads = 4;
  const auto second = quantize({many.data(), FloatType::kF32, kManyRows, kManyCols}, settings, four.out());

  EXPECT_TRUE(one.codes == four.codes);
  EXPECT_TRUE(one.zero == four.zero);
  EXPECT_EQ(first.mean_abs, second.mean_abs);
  EXPECT_EQ(first.steps, second.steps);
  EXPECT_GT(first.steps, 0);
}

TEST_F(Library, SaysWhatIsWrongWithARequest) {
  const WeightMatrix matrix{weights_.data(), FloatType::kF32, kRows, kCols};
  const QuantizeSettings settings;
  Buffers buffers(quantized_shape(kRows, kCols, settings));
  QuantizedBuffers small = buffers.out();
  small.zero = small.zero.first(10);
  expect_error(ErrorCode::kUsage, {"the buffer of the zeros has 10 bytes, but 6400 are needed"},
               [&] { (void)quantize(matrix, settings, small); });
  expect_error(ErrorCode::kUsage, {"a matrix of 0 rows"}, [&] { (void)quantized_shape(0, 64, settings); });
  expect_error(ErrorCode::kUsage, {"group size 64 does not divide"}, [&] { (void)quantized_shape(3, 100, settings); });
  expect_error(ErrorCode::kUsage, {"settings.axis is 2"}, [&] { (void)quantized_shape(64, 64, {.axis = 2}); });
  expect_error(ErrorCode::kUsage, {"CodeBits that there are not"},
               [&] { (void)quantized_shape(64, 64, {.bits = static_cast<CodeBits>(99)}); });
  expect_error(ErrorCode::kUsage, {"cannot be stored as F64"},
               [&] { (void)quantized_shape(64, 64, {.stored = FloatType::kF64}); });
  expect_error(ErrorCode::kUsage, {"has no data"}, [&] {
    (void)quantize({nullptr, FloatType::kF32, kRows, kCols}, settings, buffers.out());
  });
}

TEST_F(Library, NamesThePlaceOfANaN) {
  weights_[3 * kCols + 5] = std::numeric_limits<float>::quiet_NaN();
  for (const bool per_tensor : {false, true}) {
    const QuantizeSettings settings{.per_tensor = per_tensor};
    Buffers buffers(quantized_shape(kRows, kCols, settings));
    expect_error(ErrorCode::kBadInput, {"the matrix holds a NaN or infinity at [3, 5]"}, [&] {
      (void)quantize({weights_.data(), FloatType::kF32, kRows, kCols}, settings, buffers.out());
    });
  }
}

TEST_F(Library, TellsAJobsProgressAndWarnings) {
  std::filesystem::remove(model_ / "config.json");
  CheckpointJob whole = job();
  JobProgress last;
  std::vector<std::string> warnings;
  whole.progress = [&last](const JobProgress& progress) { last = progress; };
  whole.warn = [&warnings](const std::string& warning) { warnings.push_back(warning); };
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const JobSummary summary = quantize_checkpoint(whole);

  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(last.source_bytes_done, last.source_bytes);
  EXPECT_EQ(last.weights_done, static_cast<std::uint64_t>(kRows * kCols));
  EXPECT_THAT(warnings, testing::Contains(HasSubstr("no config.json")));
  EXPECT_EQ(summary.layers, 1U);
  EXPECT_EQ(summary.kept_tensors, 0U);
  EXPECT_EQ(summary.weights, static_cast<std::uint64_t>(kRows * kCols));
  EXPECT_TRUE(std::filesystem::exists(whole.out / "halfquad_report.json"));
}

TEST_F(Library, StopsWhenAsked) {
  std::stop_source source;
  source.request_stop();
  CheckpointJob whole = job();
  whole.stop = source.get_token();
  expect_error(ErrorCode::kInterrupted, {}, [&] { (void)quantize_checkpoint(whole); });
  EXPECT_FALSE(std::filesystem::exists(whole.out));
}

TEST_F(Library, PassesOnWhatTheProgressFunctionThrows) {
  CheckpointJob whole = job();
  whole.progress = [](const JobProgress&) { throw std::domain_error("enough"); };
  EXPECT_THROW((void)quantize_checkpoint(whole), std::domain_error);
  EXPECT_FALSE(std::filesystem::exists(whole.out));
  // Of the last call too, when there is an output already.
  whole.progress = [](const JobProgress& at) {
    if (at.source_bytes_done == at.source_bytes) throw std::domain_error("late");
  };
  EXPECT_THROW((void)quantize_checkpoint(whole), std::domain_error);
}

TEST_F(Library, SaysWhatIsWrongWithAJob) {
  CheckpointJob whole = job();
  whole.rules = {"nothing-is-called-so=bits:3"};
  expect_error(ErrorCode::kUsage, {"matches none of the 1 tensors"}, [&] { (void)quantize_checkpoint(whole); });
  whole = job();
  whole.format = "unknown";
  expect_error(ErrorCode::kUsage, {"there is no format"}, [&] { (void)quantize_checkpoint(whole); });
  whole = job();
  whole.model = directory_.path() / "missing";
  expect_error(ErrorCode::kIo, {"missing"}, [&] { (void)quantize_checkpoint(whole); });
  whole = job();
  whole.importance = "missing.safetensors";
  expect_error(ErrorCode::kUsage, {"\"missing.safetensors\" is neither auto, random, weights, none nor a file"},
               [&] { (void)quantize_checkpoint(whole); });
  whole = job();
  whole.starts = 42;
  expect_error(ErrorCode::kUsage, {"starts is 42; choose 1 to 41"}, [&] { (void)quantize_checkpoint(whole); });
  whole = job();
  whole.importance_power = 3;
  expect_error(ErrorCode::kUsage, {"importance_power is 3; choose 0 to 2"}, [&] { (void)quantize_checkpoint(whole); });
  whole = job();
  whole.out.clear();
  expect_error(ErrorCode::kUsage, {"a place for its output"}, [&] { (void)quantize_checkpoint(whole); });
}

}  // namespace
}  // namespace halfquad::test
