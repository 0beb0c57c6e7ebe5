#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "header_checkpoint.h"
#include "runtime/error.h"
#include "sharding/output_layout.h"

namespace halfquad {
namespace {

using testing::HasSubstr;

Recipe recipe_of(const std::string& json) { return parse_recipe(json, "test"); }

OutputLayout layout_of(const Checkpoint& checkpoint, const std::string& recipe, DType stored = DType::kF16) {
  return OutputLayout(checkpoint, decide(checkpoint, recipe_of(recipe)), stored);
}

/// A safetensors file held in memory.
struct GoldenFile {
  std::vector<TensorEntry> entries;
  std::string data;

  explicit GoldenFile(const std::string& name) {
    std::ifstream file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / name, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;) length = length * 256 + static_cast<unsigned char>(text.at(i));
    data = text.substr(8 + length);
    entries = parse_safetensors_header(std::string_view(text).substr(8, length), data.size(), name).tensors;
  }

  [[nodiscard]] const TensorEntry& at(const std::string& name) const {
    for (const TensorEntry& entry : entries) {
      if (entry.name == name) return entry;
    }
    throw Error(ErrorCode::kInternal, "no " + name);
  }
  [[nodiscard]] std::string bytes(const TensorEntry& entry) const { return data.substr(entry.begin, entry.bytes()); }
  /// Little-endian integer tensor, element `index`.
  [[nodiscard]] std::int64_t number(const std::string& name, std::size_t index = 0) const {
    const TensorEntry& entry = at(name);
    const auto width = static_cast<std::size_t>(bytes_of(entry.dtype));
    std::int64_t value = 0;
    for (std::size_t i = width; i-- > 0;) {
      value = value * 256 + static_cast<unsigned char>(data.at(entry.begin + index * width + i));
    }
    return value;
  }
};

/// The sources the golden's layers came from, and the rules that give each its spec.
struct GoldenSource {
  std::vector<FakeTensor> tensors;
  Recipe recipe;

  explicit GoldenSource(const GoldenFile& golden) {
    for (const TensorEntry& entry : golden.entries) {
      if (entry.name.ends_with(".bias")) tensors.push_back({entry.name, entry.shape, entry.dtype});
      if (!entry.name.ends_with(".W_q")) continue;
      const std::string module = entry.name.substr(0, entry.name.size() - 4);
      tensors.push_back({module + ".weight", {golden.number(module + ".shape"), golden.number(module + ".shape", 1)}});
      recipe.rules.push_back(parse_rule("^" + module +
                                        "\\.weight=bits:" + std::to_string(golden.number(module + ".nbits")) +
                                        ",group-size:" + std::to_string(golden.number(module + ".group_size"))));
    }
  }
};

TEST(OutputLayout, EqualsWhatThePublishedLoaderAccepted) {
  const GoldenFile golden("formats/hqq_f16.safetensors");
  const GoldenSource source(golden);
  const HeaderCheckpoint checkpoint(source.tensors);

  const OutputLayout layout(*checkpoint, decide(*checkpoint, source.recipe), DType::kF16);

  ASSERT_EQ(layout.quantized().size(), 25U);
  ASSERT_EQ(layout.entries().size(), golden.entries.size());
  for (std::size_t i = 0; i < golden.entries.size(); ++i) {
    const TensorEntry& wanted = golden.entries[i];
    const TensorEntry& entry = layout.entries()[i];
    EXPECT_EQ(entry.name, wanted.name);
    EXPECT_EQ(entry.dtype, wanted.dtype) << wanted.name;
    EXPECT_EQ(entry.shape, wanted.shape) << wanted.name;
    EXPECT_EQ(entry.begin, wanted.begin) << wanted.name;
    EXPECT_EQ(entry.end, wanted.end) << wanted.name;
    if (layout.contents()[i].kind == OutputTensor::Kind::kConstant) {
      EXPECT_EQ(layout.contents()[i].constant, golden.bytes(wanted)) << wanted.name;
    }
  }
}

TEST(OutputLayout, PlacesEveryTensorOnceWidestDtypeFirst) {
  std::vector<FakeTensor> tensors = llama_tensors();
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", {64}});
  tensors.push_back({"empty", {0, 3}, DType::kF32});
  const HeaderCheckpoint checkpoint(tensors);

  const OutputLayout layout = layout_of(*checkpoint, R"({"group_size": 32})");

  std::uint64_t next = 0;
  std::size_t copies = 0;
  for (std::size_t i = 0; i < layout.entries().size(); ++i) {
    const TensorEntry& entry = layout.entries()[i];
    const OutputTensor& content = layout.contents()[i];
    EXPECT_EQ(entry.begin, next);
    next = entry.end;
    EXPECT_EQ(content.blocks.total_bytes, entry.bytes()) << entry.name;
    if (i > 0) {
      EXPECT_GE(layout.entries()[i - 1].dtype, entry.dtype);
    }
    if (content.kind != OutputTensor::Kind::kCopy) continue;
    ++copies;
    EXPECT_EQ(checkpoint->tensors()[content.source].name, entry.name);
    EXPECT_EQ(checkpoint->tensors()[content.source].dtype, entry.dtype);
    EXPECT_EQ(checkpoint->tensors()[content.source].shape, entry.shape);
  }
  EXPECT_EQ(layout.data_bytes(), next);
  EXPECT_EQ(layout.quantized().size(), 14U);
  EXPECT_EQ(copies, tensors.size() - 14);
}

TEST(OutputLayout, QuantizedTensorsKnowTheirThreeDataTensors) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  const OutputLayout layout = layout_of(*checkpoint, R"({"group_size": 32})");

  for (const QuantizedTensor& tensor : layout.quantized()) {
    EXPECT_EQ(checkpoint->tensors()[tensor.source].name, tensor.module + ".weight");
    EXPECT_EQ(layout.entries()[tensor.codes].name, tensor.module + ".W_q");
    EXPECT_EQ(layout.contents()[tensor.codes].kind, OutputTensor::Kind::kCodes);
    EXPECT_EQ(layout.entries()[tensor.scale].name, tensor.module + ".scale");
    EXPECT_EQ(layout.contents()[tensor.scale].kind, OutputTensor::Kind::kScale);
    EXPECT_EQ(layout.entries()[tensor.zero].name, tensor.module + ".zero");
    EXPECT_EQ(layout.contents()[tensor.zero].kind, OutputTensor::Kind::kZero);
  }
}

/// One layer of [32, 64] under a recipe: key -> (entry, constant).
std::map<std::string, std::pair<TensorEntry, std::string>> layer_of(const std::string& recipe, DType stored) {
  const HeaderCheckpoint checkpoint({{"layers.0.up.weight", {32, 64}}});
  const OutputLayout layout = layout_of(*checkpoint, recipe, stored);
  std::map<std::string, std::pair<TensorEntry, std::string>> keys;
  for (std::size_t i = 0; i < layout.entries().size(); ++i) {
    const TensorEntry& entry = layout.entries()[i];
    keys[entry.name.substr(entry.name.rfind('.') + 1)] = {entry, layout.contents()[i].constant};
  }
  return keys;
}

using Shape = std::vector<std::int64_t>;

TEST(OutputLayout, AxisZeroKeepsScalesInOneRow) {
  auto keys = layer_of(R"({"axis": 0, "group_size": 32})", DType::kF32);

  EXPECT_EQ(keys["W_q"].first.shape, (Shape{16, 64}));
  EXPECT_EQ(keys["scale"].first.shape, (Shape{1, 64}));
  EXPECT_EQ(keys["zero"].first.dtype, DType::kF32);
  EXPECT_EQ(keys["axis"].second, std::string(4, '\0'));
  EXPECT_EQ(keys["compute_dtype"].second, "torch.float32");
}

TEST(OutputLayout, WholeRowsAndColumnsNameTheirLength) {
  auto rows = layer_of(R"({"group_size": "row"})", DType::kBF16);
  auto columns = layer_of(R"({"group_size": 0, "axis": 0})", DType::kBF16);

  EXPECT_EQ(rows["group_size"].second, std::string("\x40\0\0\0", 4));
  EXPECT_EQ(rows["scale"].first.shape, (Shape{32, 1}));
  EXPECT_EQ(columns["group_size"].second, std::string("\x20\0\0\0", 4));
  EXPECT_EQ(columns["scale"].first.shape, (Shape{1, 64}));
  EXPECT_EQ(rows["compute_dtype"].second, "torch.bfloat16");
}

TEST(OutputLayout, PerTensorHasAScalarScaleAndIsNotOptimized) {
  auto keys = layer_of(R"({"per_tensor": true, "bits": 3})", DType::kF16);

  EXPECT_EQ(keys["scale"].first.shape, Shape{});
  EXPECT_EQ(keys["zero"].first.shape, Shape{});
  EXPECT_EQ(keys["W_q"].first.shape, (Shape{4, 64}));
  EXPECT_EQ(keys["W_q"].first.dtype, DType::kI32);
  EXPECT_EQ(keys["group_size"].second, std::string("\x40\0\0\0", 4));
  EXPECT_EQ(keys["channel_wise"].second, std::string(1, '\0'));
  EXPECT_EQ(keys["optimize"].second, std::string(1, '\0'));
  EXPECT_EQ(keys["unpack_view_dtype"].second, "torch.int32");
}

TEST(OutputLayout, StoresTheFractionalWidthAsFloat) {
  auto keys = layer_of(R"({"bits": 1.58})", DType::kF16);

  EXPECT_EQ(keys["nbits"].first.dtype, DType::kF32);
  EXPECT_EQ(keys["nbits"].second, "\x71\x3d\xca\x3f");
  EXPECT_EQ(keys["packing"].second, "2bit_u8");
}

TEST(OutputLayout, RefusesNamesTheSourceAlreadyHolds) {
  const HeaderCheckpoint checkpoint({{"layers.0.up.weight", {32, 64}}, {"layers.0.up.scale", {32}}});

  try {
    (void)layout_of(*checkpoint, "{}");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadInput);
    EXPECT_THAT(error.what(), HasSubstr("\"layers.0.up.scale\""));
  }
}

TEST(OutputLayout, RefusesStoredDtypesLoadersDoNotKnow) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  try {
    (void)layout_of(*checkpoint, "{}", DType::kF64);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_THAT(error.what(), HasSubstr("F16, BF16 or F32, not F64"));
  }
}

}  // namespace
}  // namespace halfquad
