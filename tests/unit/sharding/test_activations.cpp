#include <cmath>

#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "sharding/activations.h"
#include "sharding/stored_tile.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using test::f32_tensor;
using test::TestTensor;
using test::TinyOutput;

/// An output with one layer, model.layers.0.q of 16 x 64, and a file of inputs beside it.
class ActivationsTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::unique_ptr<Activations> open(const std::vector<TestTensor>& tensors) const {
    test::put_safetensors(file_, tensors);
    return open_activations(*tiny_.fs, file_, ReadMode::kAuto, output_.layers());
  }

  [[nodiscard]] std::vector<float> load(const Activations& inputs, std::int64_t first, std::int64_t count) const {
    BufferPool pool(OpenCheckpoint::kScratchBytes);
    const Buffer scratch = pool.acquire(OpenCheckpoint::kScratchBytes);
    std::vector<float> out(static_cast<std::size_t>(count * layer().cols));
    inputs.load({.layer = &layer(), .first = first, .count = count}, scratch.bytes(), out.data());
    return out;
  }

  [[nodiscard]] const StoredLayer& layer() const { return output_.layers()[0]; }

  TinyOutput tiny_{{{"model.layers.0.q", 16, 64, DType::kBF16, {}}}};
  QuantizedModel output_{*tiny_.fs, tiny_.output_path};
  std::filesystem::path file_ = tiny_.temp.path() / "inputs.safetensors";
};

TEST_F(ActivationsTest, RandomOnesAreStandardNormal) {
  const auto inputs = make_random_activations(2000, 0);
  ASSERT_EQ(inputs->samples(layer()), 2000);

  const std::vector<float> x = load(*inputs, 0, 2000);

  double sum = 0, square = 0;
  for (const float value : x) {
    sum += value;
    square += static_cast<double>(value) * static_cast<double>(value);
  }
  const auto count = static_cast<double>(x.size());
  EXPECT_NEAR(sum / count, 0, 4 / std::sqrt(count));
  EXPECT_NEAR(square / count, 1, 6 / std::sqrt(count));
}

TEST_F(ActivationsTest, RandomOnesDependOnSeedNameAndPlaceAlone) {
  const auto inputs = make_random_activations(12, 5);
  const std::vector<float> all = load(*inputs, 0, 12);

  EXPECT_EQ(load(*make_random_activations(12, 5), 0, 12), all);
  EXPECT_EQ(load(*inputs, 4, 7), std::vector<float>(all.begin() + 4 * 64, all.begin() + 11 * 64));
  EXPECT_NE(load(*make_random_activations(12, 6), 0, 12), all);
  StoredLayer other = layer();
  other.module = "model.layers.0.k";
  std::vector<float> others(12 * 64);
  inputs->load({.layer = &other, .first = 0, .count = 12}, {}, others.data());
  EXPECT_NE(others, all);
}

TEST_F(ActivationsTest, OfAFileAreReadAsTheyAre) {
  std::vector<float> values(5 * 64);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 100;
  const TestTensor wide = f32_tensor("model.layers.0.q", {5, 64}, values);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    TestTensor tensor{wide.name, dtype, wide.shape,
                      std::string(values.size() * static_cast<std::size_t>(bytes_of(dtype)), '\0')};
    encode_from_f32(values.data(), dtype, static_cast<std::int64_t>(values.size()),
                    reinterpret_cast<std::byte*>(tensor.bytes.data()));
    const auto inputs = open({f32_tensor("a", {1}, {1}), tensor});
    ASSERT_EQ(inputs->samples(layer()), 5);
    EXPECT_EQ(load(*inputs, 0, 5), values) << name_of(dtype);
    EXPECT_EQ(load(*inputs, 4, 1), std::vector<float>(values.begin() + 4 * 64, values.end())) << name_of(dtype);
  }
}

TEST_F(ActivationsTest, OfAFileMayBeLongerThanOneRead) {
  std::vector<float> values(20000 * 64);  // 5 MB
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000);
  const auto inputs = open({f32_tensor("model.layers.0.q", {20000, 64}, values)});

  EXPECT_EQ(load(*inputs, 0, 20000), values);
}

TEST_F(ActivationsTest, OfTheWrongShapeOrDtypeAreRefusedByName) {
  const auto refuse = [&](const TestTensor& tensor, std::initializer_list<std::string_view> parts) {
    test::expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(open({tensor})); });
    test::expect_error(ErrorCode::kBadInput, {"inputs.safetensors", "\"model.layers.0.q\"", "[samples, 64]"},
                       [&] { static_cast<void>(open({tensor})); });
  };
  const std::string name = "model.layers.0.q";
  refuse(f32_tensor(name, {2, 32}, std::vector<float>(64)), {"F32 of shape [2, 32]"});
  refuse(f32_tensor(name, {64, 1}, std::vector<float>(64)), {"F32 of shape [64, 1]"});
  refuse(f32_tensor(name, {64}, std::vector<float>(64)), {"F32 of shape [64]"});
  refuse(f32_tensor(name, {1, 1, 64}, std::vector<float>(64)), {"F32 of shape [1, 1, 64]"});
  refuse(f32_tensor(name, {1, 64, 1}, std::vector<float>(64)), {"F32 of shape [1, 64, 1]"});
  refuse(f32_tensor(name, {0, 64}, {}), {"F32 of shape [0, 64]"});
  refuse({name, DType::kI32, {1, 64}, std::string(256, '\0')}, {"I32 of shape [1, 64]", "F32, F16 or BF16"});
  refuse({name, DType::kF64, {1, 64}, std::string(512, '\0')}, {"F64 of shape [1, 64]", "F32, F16 or BF16"});
}

TEST_F(ActivationsTest, ThatNameNoLayerAreRefused) {
  test::expect_error(
      ErrorCode::kBadInput, {"inputs.safetensors", "none of its 2 tensors", "\"model.layers.0.q\""}, [&] {
        static_cast<void>(
            open({f32_tensor("model.layers.0.q.weight", {1, 64}, std::vector<float>(64)), f32_tensor("x", {1}, {1})}));
      });
}

TEST_F(ActivationsTest, WithNanAreRefusedByElement) {
  std::vector<float> values(5 * 64);
  values[4 * 64 + 3] = std::nanf("");
  const auto inputs = open({f32_tensor("model.layers.0.q", {5, 64}, values)});

  static_cast<void>(load(*inputs, 0, 4));
  test::expect_error(ErrorCode::kBadInput, {"inputs.safetensors", "\"model.layers.0.q\"", "element 259"},
                     [&] { static_cast<void>(load(*inputs, 4, 1)); });
}

TEST_F(ActivationsTest, OfAMissingFileAreAnError) {
  test::expect_error(ErrorCode::kIo, {"nowhere.safetensors"}, [&] {
    static_cast<void>(
        open_activations(*tiny_.fs, tiny_.temp.path() / "nowhere.safetensors", ReadMode::kAuto, output_.layers()));
  });
}

}  // namespace
}  // namespace halfquad
