#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/buffer_pool.h"
#include "sharding/open_checkpoint.h"
#include "sharding/source_model.h"
#include "sharding/source_rows.h"
#include "sharding/source_tensors.h"
#include "tests/support/expect_error.h"
#include "tests/support/golden_hqq.h"
#include "tests/unit/sharding/header_checkpoint.h"

namespace halfquad {
namespace {

using testing::ElementsAre;

/// The bytes of `ranges` of a stored tensor.
std::vector<std::byte> read_ranges(const Checkpoint& checkpoint, std::size_t index,
                                   const std::vector<ByteRange>& ranges) {
  const SourceTensor& stored = checkpoint.tensors()[index];
  std::ifstream file(checkpoint.files()[static_cast<std::size_t>(stored.file)].path, std::ios::binary);
  std::vector<std::byte> bytes(total_bytes(ranges));
  std::size_t done = 0;
  for (const ByteRange& range : ranges) {
    EXPECT_LE(range.offset + range.bytes, stored.bytes) << stored.name;
    file.seekg(static_cast<std::streamoff>(stored.offset + range.offset));
    file.read(reinterpret_cast<char*>(bytes.data() + done), static_cast<std::streamsize>(range.bytes));
    done += range.bytes;
  }
  EXPECT_TRUE(file.good());
  return bytes;
}

/// A whole tensor, decoded `step` rows at a time.
std::vector<std::byte> decode(const Checkpoint& checkpoint, const LogicalTensor& tensor, std::int64_t step) {
  if (tensor.header.shape.size() != 2) {
    EXPECT_TRUE(tensor.is_verbatim());
    return read_ranges(checkpoint, tensor.data, {{0, tensor.header.bytes}});
  }
  const std::int64_t rows = tensor.header.shape[0];
  const std::int64_t row_bytes = tensor.header.shape[1] * bytes_of(tensor.header.dtype);
  std::vector<std::byte> out(static_cast<std::size_t>(rows * row_bytes));
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const SourceRows part{begin, std::min(rows, begin + step)};
    const RowSources sources = sources_of_rows(tensor, part);
    const auto data = read_ranges(checkpoint, tensor.data, sources.data);
    const auto scale = tensor.scale ? read_ranges(checkpoint, *tensor.scale, sources.scale) : std::vector<std::byte>();
    const auto zero = tensor.zero ? read_ranges(checkpoint, *tensor.zero, sources.zero) : std::vector<std::byte>();
    decode_rows(tensor, part, {data, scale, zero}, out.data() + begin * row_bytes);
  }
  return out;
}

class SourceGoldens : public testing::TestWithParam<std::string> {
 protected:
  SourceGoldens()
      : folder_(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "sources"),
        fs_(make_posix_file_system()),
        checkpoint_(*fs_, folder_ / GetParam()),
        wanted_(test::read_golden_file(folder_ / (GetParam() + "_expected.safetensors"))) {}

  std::filesystem::path folder_;
  std::unique_ptr<FileSystem> fs_;
  Checkpoint checkpoint_;
  test::GoldenFile wanted_;
};

TEST_P(SourceGoldens, HoldTheTensorsOfAPlainCheckpointAndNoOthers) {
  std::vector<std::string> names;
  for (const LogicalTensor& tensor : logical_tensors(checkpoint_)) names.push_back(tensor.header.name);
  std::sort(names.begin(), names.end());

  std::vector<std::string> wanted;
  for (const auto& [name, tensor] : wanted_) wanted.push_back(name);
  EXPECT_EQ(names, wanted);
}

TEST_P(SourceGoldens, DecodeExactlyInPiecesOfAnySize) {
  for (const LogicalTensor& tensor : logical_tensors(checkpoint_)) {
    const test::GoldenTensor& wanted = wanted_.at(tensor.header.name);
    EXPECT_EQ(name_of(tensor.header.dtype), name_of(wanted.dtype)) << tensor.header.name;
    EXPECT_EQ(tensor.header.shape, wanted.shape) << tensor.header.name;
    EXPECT_EQ(name_of(tensor.plain_dtype), "BF16") << tensor.header.name;
    for (const std::int64_t step : {1, 7, 32, 1000}) {
      EXPECT_TRUE(decode(checkpoint_, tensor, step) == wanted.bytes) << tensor.header.name << " by " << step;
    }
  }
}

TEST_P(SourceGoldens, AreOfAsManyStoredBytesAsARowTimesTheRows) {
  for (const LogicalTensor& tensor : logical_tensors(checkpoint_)) {
    if (tensor.header.shape.size() != 2) continue;
    const std::int64_t rows = tensor.header.shape[0];
    const RowSources sources = sources_of_rows(tensor, {0, rows});
    const auto stored =
        static_cast<double>(total_bytes(sources.data) + total_bytes(sources.scale) + total_bytes(sources.zero));
    // Strips end with the last row, and lines of scales and zero points may serve rows beyond it.
    const auto cols = static_cast<double>(tensor.header.shape[1]);
    const double strips = tensor.col_stride == 0 ? 0 : cols * static_cast<double>(tensor.row_stride - tensor.row_bytes);
    const double lines =
        tensor.encoding == SourceEncoding::kPlain ? 0 : 8 * std::ceil(cols / static_cast<double>(tensor.block_cols));
    EXPECT_NEAR(stored_bytes_per_row(tensor) * static_cast<double>(rows), stored, strips + lines) << tensor.header.name;
  }
}

// As the pipeline reads them: any ranges, across rows or inside of one, through one scratch buffer.
TEST_P(SourceGoldens, AreReadThroughTheOpenedModelByAnyRanges) {
  const Checkpoint model = open_source(*fs_, folder_ / GetParam());
  const OpenCheckpoint files(*fs_, model, ReadMode::kBuffered);
  ASSERT_EQ(model.tensors().size(), wanted_.size());
  EXPECT_FALSE(model.config()->contains("quantization_config"));
  BufferPool pool(OpenCheckpoint::kScratchBytes + (1 << 20));
  const Buffer scratch = pool.acquire(OpenCheckpoint::kScratchBytes);
  for (const SourceTensor& tensor : model.tensors()) {
    const test::GoldenTensor& wanted = wanted_.at(tensor.name);
    ASSERT_EQ(tensor.bytes, wanted.bytes.size()) << tensor.name;
    EXPECT_EQ(name_of(tensor.kept_as.value_or(DType::kBF16)), "BF16") << tensor.name;
    const auto element = static_cast<std::uint64_t>(bytes_of(tensor.dtype));
    for (const std::uint64_t step : {tensor.bytes, 37 * element, 1000 * element}) {
      std::vector<ByteRange> ranges;
      for (std::uint64_t at = 0; at < tensor.bytes; at += step)
        ranges.push_back({at, std::min(step, tensor.bytes - at)});
      std::vector<std::byte> out(tensor.bytes);
      files.gather(tensor, ranges, scratch.bytes(), out.data());
      EXPECT_TRUE(out == wanted.bytes) << tensor.name << " by " << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SourceGoldens,
                         testing::Values("fp8_block", "fp8_channel", "packed_int", "gpt_oss", "gpt_oss_bf16", "llama4",
                                         "qwen3_vl_moe", "qwen3_moe", "int8", "fp8_llama4", "fp8_qwen3_vl_moe",
                                         "fp8_experts"),
                         [](const auto& param_info) { return param_info.param; });

std::vector<std::string> names_of(const HeaderCheckpoint& checkpoint) {
  std::vector<std::string> names;
  for (const LogicalTensor& tensor : logical_tensors(*checkpoint)) names.push_back(tensor.header.name);
  return names;
}

void expect_refused(const std::vector<FakeTensor>& tensors, const std::string& config,
                    std::initializer_list<std::string_view> parts) {
  const HeaderCheckpoint checkpoint(tensors, config);
  test::expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(logical_tensors(*checkpoint)); });
}

TEST(LogicalTensors, OfAPlainCheckpointAreItsOwn) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  const std::vector<LogicalTensor> tensors = logical_tensors(*checkpoint);

  ASSERT_EQ(tensors.size(), checkpoint->tensors().size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(tensors[i].header.name, checkpoint->tensors()[i].name);
    EXPECT_EQ(tensors[i].data, i);
    EXPECT_TRUE(tensors[i].is_verbatim());
    EXPECT_EQ(name_of(tensors[i].plain_dtype), "BF16");
  }
}

TEST(LogicalTensors, ExpertsComeInOrderAndGateBeforeUp) {
  const HeaderCheckpoint checkpoint({{"m.experts.down_proj", {2, 8, 6}}, {"m.experts.gate_up_proj", {2, 12, 8}}},
                                    R"({"hidden_size": 8, "moe_intermediate_size": 6})");
  EXPECT_THAT(names_of(checkpoint), ElementsAre("m.experts.0.down_proj.weight", "m.experts.1.down_proj.weight",
                                                "m.experts.0.gate_proj.weight", "m.experts.0.up_proj.weight",
                                                "m.experts.1.gate_proj.weight", "m.experts.1.up_proj.weight"));
  for (const LogicalTensor& tensor : logical_tensors(*checkpoint)) EXPECT_FALSE(tensor.is_verbatim());
}

TEST(LogicalTensors, AmbiguousOrientationIsDecidedByTheModelTypeOrRefused) {
  const std::vector<FakeTensor> tensors = {{"m.experts.gate_up_proj", {2, 8, 8}}, {"m.experts.down_proj", {2, 8, 4}}};
  const std::string sizes = R"("hidden_size": 8, "moe_intermediate_size": 4})";

  expect_refused(tensors, "{" + sizes, {"m.experts.gate_up_proj", "transposed or not", "8"});
  EXPECT_EQ(names_of(HeaderCheckpoint(tensors, R"({"model_type": "qwen3_moe", )" + sizes)).size(), 6U);
  // As llama4 has it, down_proj would be [2, 4, 8].
  expect_refused(tensors, R"({"model_type": "llama4", )" + sizes, {"m.experts.down_proj", "[2, 8, 4]"});
}

TEST(LogicalTensors, SquareDownProjectionsLieAsTheirGates) {
  const HeaderCheckpoint checkpoint({{"m.experts.down_proj", {2, 8, 8}}, {"m.experts.gate_up_proj", {2, 8, 16}}},
                                    R"({"hidden_size": 8, "moe_intermediate_size": 8})");
  const std::vector<LogicalTensor> tensors = logical_tensors(*checkpoint);

  ASSERT_EQ(tensors.size(), 6U);
  EXPECT_EQ(tensors[0].col_stride, 16U) << "transposed";
}

TEST(LogicalTensors, FusedExpertsThatContradictTheConfigAreRefused) {
  const std::string config = R"({"hidden_size": 8, "moe_intermediate_size": 6, "num_experts": 2})";
  expect_refused({{"m.experts.gate_up_proj", {2, 12, 9}}}, config, {"m.experts.gate_up_proj", "[2, 12, 9]", "8"});
  expect_refused({{"m.experts.gate_up_proj", {3, 12, 8}}}, config,
                 {"m.experts.gate_up_proj", "[3, 12, 8]", "2 of them"});
  expect_refused({{"m.experts.down_proj", {2, 8, 6}}}, config, {"m.experts.down_proj", "no gate_up_proj"});
  expect_refused({{"m.experts.gate_up_proj", {2, 12, 8}}}, "{}", {"m.experts.gate_up_proj", "hidden_size"});
  expect_refused({{"m.experts.gate_up_proj", {2, 12, 8}}, {"m.experts.0.up_proj.weight", {6, 8}}}, config,
                 {"m.experts.0.up_proj.weight", "twice"});
}

TEST(LogicalTensors, OtherTensorsOfThreeDimensionsStayWhole) {
  const HeaderCheckpoint checkpoint(
      {{"m.moe.input_linear.weight", {2, 12, 8}}, {"m.experts.gate_up_proj_bias", {2, 12}}});
  EXPECT_THAT(names_of(checkpoint), ElementsAre("m.moe.input_linear.weight", "m.experts.gate_up_proj_bias"));
}

constexpr char kFp8Config[] = R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})";

TEST(LogicalTensors, Fp8DefectsAreRefusedByName) {
  const FakeTensor weight{"m.up_proj.weight", {200, 300}, DType::kF8E4M3};
  expect_refused({weight}, kFp8Config, {"m.up_proj.weight", "without a scale"});
  expect_refused({{"m.up_proj.weight_scale_inv", {2, 3}, DType::kF32}}, kFp8Config,
                 {"m.up_proj.weight_scale_inv", "no codes"});
  expect_refused({weight, {"m.up_proj.weight_scale_inv", {3, 3}, DType::kF32}}, kFp8Config,
                 {"m.up_proj.weight", "[3, 3]", "128 x 128"});
  expect_refused({weight, {"m.up_proj.weight_scale_inv", {2, 3}, DType::kF8E4M3}}, kFp8Config,
                 {"m.up_proj.weight_scale_inv", "F8_E4M3"});
  expect_refused({{"m.up_proj.weight", {2, 200, 300}, DType::kF8E4M3}}, kFp8Config,
                 {"m.up_proj.weight", "3 dimensions"});
  // A BF16 weight takes no scale.
  expect_refused({{"m.up_proj.weight", {4, 4}}, {"m.up_proj.weight_scale", {1}, DType::kF32}}, kFp8Config,
                 {"m.up_proj.weight_scale", "no codes"});
}

TEST(LogicalTensors, DefectsOfFusedFp8AreRefusedByName) {
  const std::string sizes = R"("hidden_size": 8, "moe_intermediate_size": 6)";
  const auto config = [&](const std::string& block, const std::string& type) {
    return R"({"model_type": ")" + type + "\", " + sizes +
           R"(, "quantization_config": {"quant_method": "fp8", "weight_block_size": )" + block + "}}";
  };
  const FakeTensor experts{"m.experts.gate_up_proj", {2, 12, 8}, DType::kF8E4M3};
  const auto scales = [&](std::vector<std::int64_t> shape) {
    return FakeTensor{"m.experts.gate_up_proj_scale_inv", std::move(shape), DType::kF32};
  };
  EXPECT_EQ(names_of(HeaderCheckpoint({experts, scales({2, 4, 2})}, config("[3, 4]", "x"))).size(), 4U);
  expect_refused({experts}, config("[3, 4]", "x"), {"m.experts.gate_up_proj", "without a scale"});
  expect_refused({experts, scales({2, 4, 3})}, config("[3, 4]", "x"), {"m.experts.gate_up_proj", "[2, 4, 3]", "3 x 4"});
  expect_refused({experts, scales({2, 3, 2})}, config("[4, 4]", "x"), {"m.experts.gate_up_proj", "share blocks of 4"});
  expect_refused({experts, scales({2, 4, 2})}, config("[3, 4]", "gpt_oss"), {"m.experts.gate_up_proj", "interleaved"});
}

TEST(LogicalTensors, DefectsOfI8CodesAreRefusedByName) {
  const std::string config =
      R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized",
      "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8}}}}})";
  const FakeTensor codes{"m.weight", {4, 8}, DType::kI8};
  const FakeTensor scale{"m.weight_scale", {4, 1}, DType::kBF16};
  EXPECT_EQ(names_of(HeaderCheckpoint({codes, scale}, config)).size(), 1U);
  expect_refused({codes, scale, {"m.weight_zero_point", {4, 1}, DType::kI8}}, config, {"m.weight", "zero_point"});
  expect_refused({codes, {scale.name, {3, 1}, DType::kBF16}}, config, {"m.weight", "[3, 1]"});
}

TEST(LogicalTensors, Fp8WithoutAnyConfigIsDecodedWhenItHasScales) {
  const HeaderCheckpoint with({{"a.weight", {200, 300}, DType::kF8E4M3}, {"a.weight_scale_inv", {2, 3}, DType::kF32}},
                              "");
  const std::vector<LogicalTensor> decoded = logical_tensors(*with);
  ASSERT_EQ(decoded.size(), 1U);
  EXPECT_EQ(decoded[0].encoding, SourceEncoding::kBytes);

  const HeaderCheckpoint without({{"a.weight", {200, 300}, DType::kF8E4M3}}, "");
  EXPECT_EQ(logical_tensors(*without).at(0).encoding, SourceEncoding::kPlain);
}

std::string mxfp4_config(const std::string& more = "") {
  return R"({"quantization_config": {"quant_method": "mxfp4"})" + more + "}";
}

TEST(LogicalTensors, Mxfp4DefectsAreRefusedByName) {
  const FakeTensor blocks{"m.experts.down_proj_blocks", {2, 8, 3, 16}, DType::kU8};
  const FakeTensor scales{"m.experts.down_proj_scales", {2, 8, 3}, DType::kU8};
  EXPECT_EQ(names_of(HeaderCheckpoint({blocks, scales}, mxfp4_config())).size(), 2U);
  expect_refused({blocks}, mxfp4_config(), {"down_proj_blocks", "_scales"});
  expect_refused({scales}, mxfp4_config(), {"down_proj_scales", "no codes"});
  expect_refused({blocks, {scales.name, {2, 8, 4}, DType::kU8}}, mxfp4_config(), {"down_proj_scales", "[2, 8, 4]"});
  expect_refused({blocks, {scales.name, {2, 8, 3}, DType::kI8}}, mxfp4_config(), {"down_proj_scales", "I8"});
  expect_refused({{blocks.name, {2, 8, 3, 8}, DType::kU8}, scales}, mxfp4_config(),
                 {"down_proj_blocks", "[2, 8, 3, 8]"});
  expect_refused({{blocks.name, {2, 0, 3, 16}, DType::kU8}, {scales.name, {2, 0, 3}, DType::kU8}}, mxfp4_config(),
                 {"down_proj_blocks", "[2, 0, 3, 16]"});
  expect_refused({{"m.other_blocks", {2, 8, 3, 16}, DType::kU8}}, mxfp4_config(), {"m.other_blocks", "experts"});
  expect_refused({blocks, scales}, mxfp4_config(R"(, "hidden_size": 9)"), {"down_proj_blocks", "hidden size 9"});
  expect_refused({blocks, scales}, mxfp4_config(R"(, "intermediate_size": 95)"), {"down_proj_blocks", "95 wide"});
  expect_refused({blocks, scales}, mxfp4_config(R"(, "num_local_experts": 3)"), {"down_proj_blocks", "3 of them"});
  expect_refused({{"m.experts.gate_up_proj_blocks", {2, 7, 3, 16}, DType::kU8},
                  {"m.experts.gate_up_proj_scales", {2, 7, 3}, DType::kU8}},
                 mxfp4_config(), {"gate_up_proj_blocks", "[2, 7, 3, 16]"});
}

std::string packed_config(const std::string& weights) {
  return R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
            {"g": {"targets": ["Linear"], "weights": {)" +
         weights + "}}}}}";
}

TEST(LogicalTensors, PackedDefectsAreRefusedByName) {
  const std::string sym = packed_config(R"("num_bits": 4, "group_size": 32, "symmetric": true)");
  const std::string asym = packed_config(R"("num_bits": 4, "group_size": 32, "symmetric": false)");
  const FakeTensor codes{"m.weight_packed", {12, 8}, DType::kI32};
  const FakeTensor scale{"m.weight_scale", {12, 2}};
  const FakeTensor zero{"m.weight_zero_point", {2, 2}, DType::kI32};
  const FakeTensor shape{"m.weight_shape", {2}, DType::kI64};
  EXPECT_THAT(names_of(HeaderCheckpoint({codes, scale, shape}, sym)), ElementsAre("m.weight"));
  EXPECT_THAT(names_of(HeaderCheckpoint({codes, scale, shape, zero}, asym)), ElementsAre("m.weight"));

  expect_refused({codes}, sym, {"m.weight_packed", "weight_scale"});
  expect_refused({scale}, sym, {"m.weight_scale", "no codes"});
  expect_refused({shape}, sym, {"m.weight_shape", "no codes"});
  expect_refused({zero}, sym, {"m.weight_zero_point", "no codes"});
  expect_refused({codes, scale}, asym, {"m.weight_packed", "weight_zero_point"});
  expect_refused({codes, scale, zero}, sym, {"m.weight_packed", "symmetric"});
  expect_refused({codes, scale, {"m.weight_g_idx", {64}, DType::kI32}}, sym, {"m.weight_packed", "weight_g_idx"});
  expect_refused({{codes.name, {12, 8}, DType::kU8}, scale}, sym, {"m.weight_packed", "U8"});
  expect_refused({{codes.name, {12, 0}, DType::kI32}, scale}, sym, {"m.weight_packed", "[12, 0]"});
  expect_refused({codes, {scale.name, {12, 3}}}, sym, {"m.weight_packed", "[12, 3]", "groups of 32"});
  expect_refused({codes, {scale.name, {11, 2}}}, sym, {"m.weight_packed", "[11, 2]"});
  expect_refused({codes, {scale.name, {12, 2}, DType::kI8}}, sym, {"m.weight_scale", "I8"});
  expect_refused({codes, scale, {zero.name, {1, 2}, DType::kI32}}, asym, {"m.weight_zero_point", "I32 [2, 2]"});
  expect_refused({codes, scale}, packed_config(R"("num_bits": 4)"), {"m.weight_packed", "whole rows"});
  expect_refused({codes, scale}, packed_config(R"("num_bits": 8, "type": "float")"), {"m.weight_packed", "floating"});
  expect_refused({codes, scale}, R"({"quantization_config": {"quant_method": "compressed-tensors"}})",
                 {"no config group", "\"m\""});
}

}  // namespace
}  // namespace halfquad
