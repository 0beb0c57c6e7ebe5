#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/hdf5_image.h"
#include "io/hdf5_reader.h"
#include "io/safetensors_header.h"
#include "sharding/formats/hdf5_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/memory_file.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;

Hdf5Model small_model() {
  Hdf5Model model;
  model.config = "{}";
  model.layers = {
      {.module = "model.layers.0.q_proj", .bits = 3, .group_size = 8, .rows = 4, .cols = 24, .solver = "hqq"},
      {.module = "model.layers.0.q_proj.lora",
       .bits = 8,
       .group_size = 6,
       .rows = 1,
       .cols = 6,
       .solver = "rtn",
       .stored = DType::kBF16},
      {.module = "z", .bits = 4, .group_size = 2, .rows = 2, .cols = 2, .solver = "hqq", .stored = DType::kF16}};
  model.tensors = {{"z.bias", DType::kF16, {2}},
                   {"b.weight", DType::kBF16, {3}},
                   {"flag", DType::kBool, {}},
                   {"x", DType::kF32, {2, 0}}};
  model.files = {{"tokenizer.json", "{\n}", 3}};
  return model;
}

/// The data of a dataset.
std::string data_of(const std::string& bytes, const Hdf5File& file, std::size_t dataset) {
  const Hdf5Dataset& of = file.tree.datasets[dataset];
  return bytes.substr(file.offsets[dataset], static_cast<std::size_t>(*element_count(of.shape) * bytes_of(of.dtype)));
}

TEST(Hdf5Model, ReadsBackAsItWas) {
  const Hdf5Model model = small_model();
  const Hdf5Tree tree = hdf5_tree(model);
  MemoryReadFile file(test::bytes_of(hdf5_image(tree)));

  const Hdf5File read = read_hdf5(file, "m.h5");
  const Hdf5StoredModel stored = hdf5_model(read.tree, "m.h5");

  Hdf5Model expected = model;
  expected.files[0].content.clear();
  EXPECT_EQ(stored.model, expected);
  ASSERT_EQ(stored.datasets.size(), tree.datasets.size());
  for (std::size_t i = 0; i < tree.datasets.size(); ++i) {
    EXPECT_EQ(read.tree.datasets[stored.datasets[i]].path, tree.datasets[i].path);
  }
  EXPECT_EQ(tree.datasets[hdf5_codes_of(1)].path, "quantized/model/layers/0/q_proj/lora/codes");
  EXPECT_EQ(tree.datasets[hdf5_dataset_of(model, 0)].path, "quantized/z/bias");
  EXPECT_EQ(tree.datasets[hdf5_dataset_of(model, 3)].path, "tensors/x");
  EXPECT_EQ(tree.datasets[hdf5_file_of(model, 0)].path, "files/tokenizer.json");
}

class GoldenHdf5 : public ::testing::TestWithParam<const char*> {};

/// The golden's catalogue makes a file with the same groups, datasets and attributes; with the golden's data at its
/// places it holds the same.
TEST_P(GoldenHdf5, IsWhatItsCatalogueMakes) {
  const std::string golden = test::get_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "formats" / GetParam());
  MemoryReadFile golden_file(golden);
  const Hdf5File expected = read_hdf5(golden_file, "golden");
  const Hdf5StoredModel stored = hdf5_model(expected.tree, "golden");

  const Hdf5Tree tree = hdf5_tree(stored.model);
  const FileImage image = hdf5_image(tree);
  std::string bytes = test::bytes_of(image);
  for (std::size_t i = 0; i < stored.datasets.size(); ++i) {
    const std::string data = data_of(golden, expected, stored.datasets[i]);
    bytes.replace(image.offsets[i], data.size(), data);
  }

  MemoryReadFile made_file(bytes);
  const Hdf5File made = read_hdf5(made_file, "made");
  EXPECT_EQ(made.tree, expected.tree);
  for (std::size_t i = 0; i < made.offsets.size(); ++i) {
    EXPECT_EQ(data_of(bytes, made, i), data_of(golden, expected, i)) << made.tree.datasets[i].path;
  }
  EXPECT_FALSE(stored.model.layers.empty());
  if (const char* keep = std::getenv("HALFQUAD_KEEP_HDF5")) {
    test::put_file(std::filesystem::path(keep) / std::filesystem::path(GetParam()).filename(), bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenHdf5, ::testing::Values("expected.h5", "tiny_llama/model.h5"));

Hdf5Model model_with_table() {
  Hdf5Model model;
  model.layers = {{.module = "a", .bits = 4, .group_size = 8, .rows = 4, .cols = 24, .solver = "als"},
                  {.module = "b",
                   .bits = 3,
                   .group_size = 24,
                   .rows = 4,
                   .cols = 24,
                   .solver = "als",
                   .stored = DType::kBF16,
                   .grid = FloatGrid::kFp3E2M0}};
  return model;
}

TEST(Hdf5Model, HasATableInPlaceOfZeros) {
  const Hdf5Model model = model_with_table();
  const Hdf5Tree tree = hdf5_tree(model);
  MemoryReadFile file(test::bytes_of(hdf5_image(tree)));

  const Hdf5StoredModel stored = hdf5_model(read_hdf5(file, "m.h5").tree, "m.h5");

  EXPECT_EQ(stored.model, model);
  const Hdf5Dataset& table = tree.datasets[hdf5_codes_of(1) + 2];
  EXPECT_EQ(table.path, "quantized/b/table");
  EXPECT_EQ(table.dtype, DType::kF32);
  EXPECT_EQ(table.shape, std::vector<std::int64_t>{7});
}

TEST(Hdf5Model, RefusesTablesThatDoNotFit) {
  const auto expect_refusal = [](const char* reason, void (*spoil)(Hdf5Tree & tree)) {
    Hdf5Tree tree = hdf5_tree(model_with_table());
    spoil(tree);
    expect_error(ErrorCode::kBadInput, {"\"m.h5\": \"/quantized/", reason},
                 [&] { static_cast<void>(hdf5_model(tree, "m.h5")); });
  };
  expect_refusal("has the unknown grid \"nf5\"", [](Hdf5Tree& t) { t.groups[1].attributes.back().value = "nf5"; });
  expect_refusal("has the grid mxfp4, which has no table",
                 [](Hdf5Tree& t) { t.groups[1].attributes.back().value = "mxfp4"; });
  expect_refusal("has codes of 3 bits for the grid nf4",
                 [](Hdf5Tree& t) { t.groups[1].attributes.back().value = "nf4"; });
  expect_refusal("has no dataset \"table\"", [](Hdf5Tree& t) { t.datasets.pop_back(); });
  expect_refusal("/a\" has no dataset \"zero\"", [](Hdf5Tree& t) { t.datasets[2].path = "quantized/a/table"; });
  expect_refusal("/b/zero\" does not go with", [](Hdf5Tree& t) {
    t.datasets.push_back(t.datasets[4]);
    t.datasets.back().path = "quantized/b/zero";
  });
  expect_refusal("is F32 [8] instead of F32 [7]", [](Hdf5Tree& t) { t.datasets.back().shape = {8}; });
}

struct BadModel {
  const char* name;
  void (*spoil)(Hdf5Model& model);
  const char* reason;
};

class RefusedModel : public ::testing::TestWithParam<BadModel> {};

TEST_P(RefusedModel, NamesItsDefect) {
  Hdf5Model model = small_model();
  GetParam().spoil(model);

  expect_error(ErrorCode::kBadInput, {"HDF5 cannot hold \"", GetParam().reason},
               [&] { static_cast<void>(hdf5_image(hdf5_tree(model))); });
}

INSTANTIATE_TEST_SUITE_P(
    Hdf5, RefusedModel,
    ::testing::Values(
        BadModel{"bits", [](Hdf5Model& m) { m.layers[0].bits = 9; }, "codes of 9 bits"},
        BadModel{"group", [](Hdf5Model& m) { m.layers[0].group_size = 5; }, "groups of 5 in rows of 24"},
        BadModel{"no_group", [](Hdf5Model& m) { m.layers[0].group_size = 0; }, "groups of 0 in rows of 24"},
        BadModel{"scales", [](Hdf5Model& m) { m.layers[0].stored = DType::kF64; }, "scales of F64"},
        BadModel{"empty", [](Hdf5Model& m) { m.layers[0].rows = 0; }, "the shape [0, 24]"},
        BadModel{"module_part", [](Hdf5Model& m) { m.layers[0].module = "a..b"; }, "a part of it is empty"},
        BadModel{"module_slash", [](Hdf5Model& m) { m.layers[0].module = "a/b"; }, "it has a slash in it"},
        BadModel{"module_twice", [](Hdf5Model& m) { m.layers[2].module = m.layers[0].module; }, "two objects"},
        BadModel{"inside", [](Hdf5Model& m) { m.layers[2].module = m.layers[0].module + ".codes"; }, "have this path"},
        BadModel{"below", [](Hdf5Model& m) { m.layers[2].module = m.layers[0].module + ".zero.x"; }, "below a dataset"},
        BadModel{"tensor_slash", [](Hdf5Model& m) { m.tensors[1].name = "a/b"; }, "it has a slash in it"},
        BadModel{"tensor_dot", [](Hdf5Model& m) { m.tensors[0].name = "."; }, "a part of it is \".\""},
        BadModel{"sub_byte", [](Hdf5Model& m) { m.tensors[0].dtype = DType::kF4; },
                 "elements of F4 are no whole bytes"},
        BadModel{"file", [](Hdf5Model& m) { m.files[0].name = "../x"; }, "a part of it is \".\" or \"..\""},
        BadModel{"config", [](Hdf5Model& m) { m.config = "\xff"; }, "\"config.json\" is not UTF-8"}),
    [](const auto& info) { return std::string(info.param.name); });

struct BadTree {
  const char* name;
  void (*spoil)(Hdf5Tree& tree);
  const char* reason;
};

class RefusedTree : public ::testing::TestWithParam<BadTree> {};

TEST_P(RefusedTree, NamesItsDefect) {
  Hdf5Tree tree = hdf5_tree(small_model());
  GetParam().spoil(tree);

  expect_error(ErrorCode::kBadInput, {"\"m.h5\": \"/", GetParam().reason},
               [&] { static_cast<void>(hdf5_model(tree, "m.h5")); });
}

/// Attribute `i` of the first layer: name, bits, group_size, axis, shape, solver, packing.
Hdf5Value& layer_value(Hdf5Tree& tree, std::size_t i) { return tree.groups[0].attributes[i].value; }

INSTANTIATE_TEST_SUITE_P(
    Root, RefusedTree,
    ::testing::Values(
        BadTree{"no_format", [](Hdf5Tree& t) { t.attributes.erase(t.attributes.begin()); }, "no attribute \"format\""},
        BadTree{"format", [](Hdf5Tree& t) { t.attributes[0].value = "keras"; },
                "the format is \"keras\", not halfquad"},
        BadTree{"no_version", [](Hdf5Tree& t) { t.attributes[1].name = "v"; },
                "no attribute \"version\" that is a whole"},
        BadTree{"version", [](Hdf5Tree& t) { t.attributes[1].value = 2; }, "the version is 2; 1 is supported"},
        BadTree{"version_text", [](Hdf5Tree& t) { t.attributes[1].value = "1"; }, "no attribute \"version\""},
        BadTree{"config", [](Hdf5Tree& t) { t.attributes[2].value = 1; },
                "no attribute \"config.json\" that is a text"},
        BadTree{"stray", [](Hdf5Tree& t) { t.datasets.back().path = "w"; }, "\"/w\" has no place in the format"},
        BadTree{"stray_part", [](Hdf5Tree& t) { t.datasets[0].path = "quantized/z/w"; }, "/w\" is no part of a layer"},
        BadTree{"no_layer", [](Hdf5Tree& t) { t.datasets[0].path = "quantized/codes"; }, "is no part of a layer"},
        BadTree{"file_type", [](Hdf5Tree& t) { t.datasets.back().dtype = DType::kI8; }, "json\" is no list of bytes"},
        BadTree{"deep_tensor", [](Hdf5Tree& t) { t.datasets[10].path = "tensors/a/b"; }, "is below another group"},
        BadTree{"stray_bias", [](Hdf5Tree& t) { t.datasets[9].path = "quantized/y/bias"; },
                "/bias\" belongs to no layer"},
        BadTree{"no_dtype", [](Hdf5Tree& t) { t.datasets[10].attributes.clear(); }, "no attribute \"dtype\""},
        BadTree{"dtype", [](Hdf5Tree& t) { t.datasets[10].attributes[0].value = "F32"; },
                "is U16 and says that it is \"F32"},
        BadTree{"dtype_name", [](Hdf5Tree& t) { t.datasets[10].attributes[0].value = "Q"; }, "says that it is \"Q\""}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Layers, RefusedTree,
    ::testing::Values(
        BadTree{"no_group", [](Hdf5Tree& t) { t.groups.erase(t.groups.begin()); }, "no attribute \"name\""},
        BadTree{"no_codes", [](Hdf5Tree& t) { t.datasets.erase(t.datasets.begin()); }, "has no dataset \"codes\""},
        BadTree{"no_zero", [](Hdf5Tree& t) { t.datasets.erase(t.datasets.begin() + 2); }, "has no dataset \"zero\""},
        BadTree{"name", [](Hdf5Tree& t) { layer_value(t, 0) = "z"; }, "is named \"z\""},
        BadTree{"bits_text", [](Hdf5Tree& t) { layer_value(t, 1) = "3"; }, "no attribute \"bits\" that is a whole"},
        BadTree{"bits", [](Hdf5Tree& t) { layer_value(t, 1) = 0; }, "has codes of 0 bits"},
        BadTree{"other_bits", [](Hdf5Tree& t) { layer_value(t, 1) = 4; }, "is U8 [4, 9] instead of U8 [4, 12]"},
        BadTree{"group_size", [](Hdf5Tree& t) { layer_value(t, 2) = -8; }, "has groups of -8 in rows of 24"},
        BadTree{"axis", [](Hdf5Tree& t) { layer_value(t, 3) = 0; }, "has groups along axis 0; 1 is supported"},
        BadTree{"rank", [](Hdf5Tree& t) { layer_value(t, 4) = std::vector<std::int64_t>{96}; },
                "a shape of 1 dimensions"},
        BadTree{"huge",
                [](Hdf5Tree& t) {
                  layer_value(t, 4) = std::vector<std::int64_t>{1, INT64_MAX};
                },
                "the shape [1, "},
        BadTree{"solver", [](Hdf5Tree& t) { layer_value(t, 5) = 1; }, "no attribute \"solver\" that is a text"},
        BadTree{"packing", [](Hdf5Tree& t) { layer_value(t, 6) = "rows_msb"; }, "the unknown packing \"rows_msb\""},
        BadTree{"scale_shape",
                [](Hdf5Tree& t) {
                  t.datasets[1].shape = {3, 4};
                },
                "F32 [3, 4] instead of F32 [4, 3]"},
        BadTree{"mixed", [](Hdf5Tree& t) { t.datasets[2].dtype = DType::kF16; }, "F16 [4, 3] instead of F32 [4, 3]"},
        BadTree{"unnamed_u16", [](Hdf5Tree& t) { t.datasets[4].attributes.clear(); }, "scales of U16"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace halfquad
