#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sharding/quantized_model.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using test::TinyOutput;

const std::string kModule = "model.layers.0.q";

std::vector<test::ModelLayer> one_layer() { return {{kModule, 16, 64, DType::kBF16, {}}}; }

std::string key(const std::string& name) { return kModule + "." + name; }

void expect_refused(const std::function<void(TinyOutput&)>& damage, std::initializer_list<std::string_view> parts,
                    const std::vector<test::ModelLayer>& layers = one_layer()) {
  TinyOutput tiny(layers);
  damage(tiny);
  tiny.write_output();
  test::expect_error(ErrorCode::kBadInput, parts, [&] { QuantizedModel(*tiny.fs, tiny.output_path); });
}

TEST(HqqFormat, ReadsBackWhatEachLayerIs) {
  const std::vector<test::ModelLayer> layers = test::every_kind_of_layer();
  const TinyOutput tiny(layers, DType::kBF16);

  const QuantizedModel output(*tiny.fs, tiny.output_path);

  ASSERT_EQ(output.layers().size(), layers.size());
  for (const StoredLayer& stored : output.layers()) {
    const auto layer = std::find_if(layers.begin(), layers.end(),
                                    [&](const test::ModelLayer& l) { return l.module == stored.module; });
    ASSERT_NE(layer, layers.end()) << stored.module;
    EXPECT_EQ(stored.rows, layer->rows);
    EXPECT_EQ(stored.cols, layer->cols);
    EXPECT_EQ(stored.stored, DType::kBF16);
    EXPECT_EQ(stored.spec.width, layer->spec.width) << stored.module;
    EXPECT_EQ(stored.spec.axis, layer->spec.axis);
    EXPECT_EQ(stored.spec.channel_wise, layer->spec.channel_wise);
    EXPECT_EQ(stored.spec.round_zero, layer->spec.round_zero);
    EXPECT_EQ(stored.spec.optimizes(), layer->spec.optimizes());
    EXPECT_EQ(output.checkpoint().tensors()[stored.codes].name, stored.module + ".W_q");
    EXPECT_EQ(output.checkpoint().tensors()[stored.scale].name, stored.module + ".scale");
    EXPECT_EQ(output.checkpoint().tensors()[stored.zero].name, stored.module + ".zero");
  }
  std::vector<std::string> plain;
  for (const std::size_t index : output.plain()) plain.push_back(output.checkpoint().tensors()[index].name);
  EXPECT_THAT(plain,
              testing::UnorderedElementsAre("model.embed_tokens.weight", "model.norm.weight", "model.layers.0.a.bias"));
}

TEST(HqqFormat, TakesScalarsOfOneElementAndWideIntegers) {
  TinyOutput tiny(one_layer());
  tiny.tensor(key("nbits")).shape = {1};
  tiny.tensor(key("axis")).dtype = DType::kI64;
  tiny.set_value(key("axis"), std::int64_t{1});
  tiny.write_output();

  EXPECT_EQ(QuantizedModel(*tiny.fs, tiny.output_path).layers()[0].spec.width, CodeWidth::k4);
}

class HqqOutputKey : public testing::TestWithParam<std::string> {};

TEST_P(HqqOutputKey, IsNamedWhenMissing) {
  expect_refused([](TinyOutput& tiny) { tiny.erase_tensor(key(GetParam())); },
                 {"\"" + kModule + "\"", "\"" + GetParam() + "\"", "missing"});
}

TEST_P(HqqOutputKey, IsNamedWhenItsDtypeIsWrong) {
  const auto damage = [](TinyOutput& tiny) {
    test::TestTensor& tensor = tiny.tensor(key(GetParam()));
    tensor.dtype = DType::kF64;
    std::int64_t count = 1;
    for (const std::int64_t extent : tensor.shape) count *= extent;
    tensor.bytes.assign(static_cast<std::size_t>(count * 8), '\0');
  };
  expect_refused(damage, {"\"" + kModule + "\"", "\"" + GetParam() + "\"", "F64"});
}

TEST_P(HqqOutputKey, IsNamedWhenItsShapeIsWrong) {
  const auto damage = [](TinyOutput& tiny) {
    test::TestTensor& tensor = tiny.tensor(key(GetParam()));
    if (tensor.shape.size() == 1) {
      tensor.shape.push_back(1);  // the same bytes
    } else {
      tensor.shape = {2, 3};
      tensor.bytes.assign(static_cast<std::size_t>(6 * bytes_of(tensor.dtype)), '\1');
    }
  };
  expect_refused(damage, {"\"" + kModule + "\"", "\"" + GetParam() + "\"", "shape"});
}

INSTANTIATE_TEST_SUITE_P(All, HqqOutputKey,
                         testing::Values("W_q", "scale", "zero", "nbits", "group_size", "axis", "shape", "packing",
                                         "unpack_view_dtype", "compute_dtype", "view_as_float", "quant_scale",
                                         "quant_zero", "channel_wise", "optimize", "round_zero", "offload_meta",
                                         "encoded_state_dict", "stores_quant_config"),
                         [](const auto& info) { return info.param; });

TEST(HqqFormat, RefusesValuesThatNoLayerHas) {
  const auto set = [](const std::string& name, auto value) {
    return [=](TinyOutput& tiny) { tiny.set_value(key(name), value); };
  };
  expect_refused(set("nbits", 7), {kModule, "nbits", "7"});
  expect_refused(set("nbits", 0), {kModule, "nbits", "0"});
  expect_refused(set("group_size", 0), {kModule, "group_size", "0"});
  expect_refused(set("group_size", -64), {kModule, "group_size", "-64"});
  expect_refused(set("axis", 2), {kModule, "axis", "2"});
  for (const std::string name : {"channel_wise", "optimize", "round_zero"}) {
    expect_refused(set(name, std::uint8_t{2}), {kModule, name, "neither 0 nor 1"});
  }
  for (const std::string name : {"view_as_float", "quant_scale", "quant_zero", "offload_meta"}) {
    expect_refused(set(name, std::uint8_t{1}), {kModule, name, "not supported"});
  }
  for (const std::string name : {"encoded_state_dict", "stores_quant_config"}) {
    expect_refused(set(name, std::uint8_t{0}), {kModule, name, "1 is needed"});
  }
}

TEST(HqqFormat, RefusesAFractionOtherThan1_58) {
  const auto damage = [](TinyOutput& tiny) {
    tiny.tensor(key("nbits")).dtype = DType::kF32;
    tiny.set_value(key("nbits"), 2.5F);
  };
  expect_refused(damage, {kModule, "nbits", "2.5"});
}

TEST(HqqFormat, RefusesShapesThatDoNotBelongTogether) {
  const auto shape = [](std::int64_t rows, std::int64_t cols) {
    return [=](TinyOutput& tiny) { tiny.set_value(key("shape"), std::array{rows, cols}); };
  };
  expect_refused(shape(0, 64), {kModule, "shape", "[0, 64]"});
  expect_refused(shape(-16, -64), {kModule, "shape", "[-16, -64]"});
  expect_refused(shape(std::int64_t{1} << 40, std::int64_t{1} << 40), {kModule, "shape", "no possible"});
  expect_refused(shape(16, 65), {kModule, "shape", "[16, 65]", "64"});
  expect_refused(shape(32, 64), {kModule, "W_q", "[16, 64]"});
}

TEST(HqqFormat, RefusesAScaleOfAnotherDtypeThanTheZero) {
  const auto damage = [](TinyOutput& tiny) { tiny.tensor(key("zero")).dtype = DType::kBF16; };
  expect_refused(damage, {kModule, "zero", "BF16", "F16"});
}

TEST(HqqFormat, RefusesNamesThatDoNotFitTheWidth) {
  const auto set = [](const std::string& name, const std::string& text) {
    return [=](TinyOutput& tiny) {
      tiny.tensor(key(name)).bytes = text;
      tiny.tensor(key(name)).shape = {static_cast<std::int64_t>(text.size())};
    };
  };
  expect_refused(set("packing", "8bit_u8"), {kModule, "packing", "8bit_u8", "4bit_u8"});
  expect_refused(set("unpack_view_dtype", "torch.int32"), {kModule, "unpack_view_dtype", "torch.int32"});
  expect_refused(set("compute_dtype", "torch.float64"), {kModule, "compute_dtype", "torch.float64"});
  expect_refused(set("compute_dtype", std::string(5000, 'x')), {kModule, "compute_dtype", "5000 bytes"});
}

TEST(HqqFormat, RefusesAModelWithoutQuantizedLayers) {
  const auto damage = [](TinyOutput& tiny) { tiny.tensors = {test::f32_tensor("model.norm.weight", {1}, {1.0F})}; };
  expect_refused(damage, {"no quantized layer"});
}

TEST(HqqFormat, RefusesALayerThatIsThereTwice) {
  const auto damage = [](TinyOutput& tiny) { tiny.tensors.push_back(test::f32_tensor(key("weight"), {1}, {1.0F})); };
  expect_refused(damage, {kModule, "both quantized and as the plain tensor"});
}

}  // namespace
}  // namespace halfquad
