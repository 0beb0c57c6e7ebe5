#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "kernels/decode.h"
#include "runtime/buffer_pool.h"
#include "sharding/formats/gguf_copy.h"
#include "sharding/gguf_source.h"
#include "sharding/open_checkpoint.h"
#include "sharding/output_layout.h"
#include "sharding/source_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_file.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::gguf_file;
using test::GgufFileTensor;
using testing::ElementsAre;

std::string random_bytes(std::size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

/// Blocks of Q8_0 with scales of all signs and sizes, and what they stand for.
std::pair<std::string, std::vector<float>> random_q8(std::size_t count) {
  std::string blocks;
  std::vector<float> weights;
  std::mt19937 random(static_cast<unsigned>(count));
  for (std::size_t block = 0; block < count; ++block) {
    const std::uint16_t d = f32_to_f16(std::ldexp(block % 3 == 0 ? -1.7F : 0.9F, static_cast<int>(block % 30) - 20));
    blocks.append(reinterpret_cast<const char*>(&d), sizeof d);
    for (int i = 0; i < 32; ++i) {
      const auto code = static_cast<std::int8_t>(random());
      blocks += static_cast<char>(code);
      weights.push_back(static_cast<float>(code) * f16_to_f32(d));
    }
  }
  return {blocks, weights};
}

/// Blocks of MXFP4 with scales of all sizes, and what they stand for.
std::pair<std::string, std::vector<float>> random_mxfp4(std::size_t count) {
  constexpr std::array<float, 16> kValues = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6, -0.F, -0.5F, -1, -1.5F, -2, -3, -4, -6};
  std::string blocks;
  std::vector<float> weights;
  std::mt19937 random(static_cast<unsigned>(count));
  for (std::size_t block = 0; block < count; ++block) {
    const int exponent = static_cast<int>(block * 7 % 250);
    blocks += static_cast<char>(exponent);
    const std::string codes = random_bytes(16);
    blocks += codes;
    for (const unsigned shift : {0U, 4U}) {  // the first 16 weights lie in the low halves
      for (const char byte : codes) {
        weights.push_back(std::ldexp(kValues[static_cast<unsigned char>(byte) >> shift & 15U], exponent - 127));
      }
    }
  }
  return {blocks, weights};
}

class GgufSourceTest : public testing::Test {
 protected:
  Checkpoint open(const std::vector<GgufFileTensor>& tensors, const std::vector<GgufKey>& keys = {}) {
    test::put_file(path_, gguf_file(keys, tensors));
    return open_source(*fs_, path_);
  }

  /// A tensor's bytes, as the pipeline reads them, `step` bytes at a time.
  std::string read(const Checkpoint& model, const std::string& name, std::uint64_t step) {
    const SourceTensor* tensor = model.find(name);
    if (tensor == nullptr) return "no such tensor";
    const OpenCheckpoint files(*fs_, model, ReadMode::kBuffered);
    BufferPool pool(OpenCheckpoint::kScratchBytes + (1 << 20));
    const Buffer scratch = pool.acquire(OpenCheckpoint::kScratchBytes);
    std::vector<ByteRange> ranges;
    for (std::uint64_t at = 0; at < tensor->bytes; at += step) {
      ranges.push_back({at, std::min(step, tensor->bytes - at)});
    }
    std::string bytes(tensor->bytes, '\0');
    files.gather(*tensor, ranges, scratch.bytes(), reinterpret_cast<std::byte*>(bytes.data()));
    return bytes;
  }

  static std::string bytes_of(const float* weights, std::size_t count) {
    std::string bytes(count * sizeof(float), '\0');
    std::memcpy(bytes.data(), weights, bytes.size());
    return bytes;
  }

  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  test::TempDir directory_;
  std::filesystem::path path_ = directory_.path() / "m.gguf";
};

TEST_F(GgufSourceTest, TakesElementsOfEveryDtypeAsTheyAre) {
  constexpr std::array kTypes = {std::pair{GgmlTypeId::kF32, DType::kF32},   std::pair{GgmlTypeId::kF16, DType::kF16},
                                 std::pair{GgmlTypeId::kBF16, DType::kBF16}, std::pair{GgmlTypeId::kF64, DType::kF64},
                                 std::pair{GgmlTypeId::kI8, DType::kI8},     std::pair{GgmlTypeId::kI16, DType::kI16},
                                 std::pair{GgmlTypeId::kI32, DType::kI32},   std::pair{GgmlTypeId::kI64, DType::kI64}};
  std::vector<GgufFileTensor> tensors;
  for (const auto& [type, dtype] : kTypes) {
    const std::size_t bytes = 5 * 3 * static_cast<std::size_t>(halfquad::bytes_of(dtype));
    tensors.push_back({std::string(name_of(dtype)), {5, 3}, type, random_bytes(bytes)});
  }

  const Checkpoint model = open(tensors);

  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    const SourceTensor& tensor = model.tensors()[i];
    EXPECT_EQ(tensor.name, tensors[i].name);
    EXPECT_EQ(name_of(tensor.dtype), name_of(kTypes[i].second));
    EXPECT_THAT(tensor.shape, ElementsAre(3, 5));
    EXPECT_EQ(tensor.decoder, nullptr);
    EXPECT_EQ(read(model, tensor.name, tensor.bytes), tensors[i].data);
  }
}

TEST_F(GgufSourceTest, DecodesBlocksInPiecesOfAnySize) {
  constexpr std::int64_t kRows = 50;
  for (const GgmlTypeId type : {GgmlTypeId::kQ8_0, GgmlTypeId::kMXFP4}) {
    const auto [blocks, weights] = type == GgmlTypeId::kQ8_0 ? random_q8(3 * kRows) : random_mxfp4(3 * kRows);

    const Checkpoint model = open({{"first", {7}}, {"blocks", {96, kRows}, type, blocks}});

    const SourceTensor& tensor = *model.find("blocks");
    EXPECT_EQ(name_of(tensor.dtype), "F32");
    EXPECT_THAT(tensor.shape, ElementsAre(kRows, 96));
    EXPECT_EQ(tensor.stored_bytes(), blocks.size());
    EXPECT_EQ(model.find("first")->stored_bytes(), 28U);
    const std::string wanted = bytes_of(weights.data(), weights.size());
    for (const std::uint64_t step : {wanted.size(), std::size_t{4}, std::size_t{37 * 4}, std::size_t{96 * 4}}) {
      EXPECT_TRUE(read(model, "blocks", step) == wanted) << ggml_type(type).name << " by " << step;
    }
  }
}

TEST_F(GgufSourceTest, DividesExpertsIntoMatrices) {
  const auto [blocks, weights] = random_q8(3 * 2 * 2);
  const std::string halves = random_bytes(3 * 2 * 4 * 2);

  const Checkpoint model = open({{"blk.0.ffn_up_exps.weight", {4, 2, 3}, GgmlTypeId::kF16, halves},
                                 {"blk.0.ffn_down_exps.weight", {64, 2, 3}, GgmlTypeId::kQ8_0, blocks},
                                 {"blk.0.attn_k_b.weight", {4, 2, 3}},
                                 {"blk.0.ffn_up_exps.bias", {4, 3}}});

  EXPECT_EQ(model.tensors().size(), 8U);
  EXPECT_THAT(model.find("blk.0.attn_k_b.weight")->shape, ElementsAre(3, 2, 4));
  for (std::size_t expert = 0; expert < 3; ++expert) {
    const std::string up = "blk.0.ffn_up_exps." + std::to_string(expert) + ".weight";
    const std::string down = "blk.0.ffn_down_exps." + std::to_string(expert) + ".weight";
    EXPECT_THAT(model.find(up)->shape, ElementsAre(2, 4));
    EXPECT_EQ(read(model, up, 16), halves.substr(expert * 16, 16));
    EXPECT_EQ(read(model, down, 4), bytes_of(weights.data() + expert * 128, 128));
  }
}

TEST_F(GgufSourceTest, RefusesEveryOtherQuantizedTypeByName) {
  int refused = 0;
  for (const GgmlType& type : ggml_types()) {
    if (gguf_plain_dtype(type.id) || type.name == "Q8_0" || type.name == "MXFP4") continue;
    ++refused;
    const auto id = static_cast<GgmlTypeId>(type.id);
    test::expect_error(ErrorCode::kBadInput, {"m.gguf\": tensor \"a.weight\" is ", type.name, "quantized already"},
                       [&] {
                         open({{"n", {8}}, {"a.weight", {256, 2}, id}});
                       });
  }
  EXPECT_EQ(refused, 25);
}

TEST_F(GgufSourceTest, ReadsTensorsOfAllParts) {
  const std::string first = random_bytes(32), second = random_bytes(48);
  const auto part = [](std::uint16_t number) {
    return std::vector<GgufKey>{
        {"split.no", number}, {"split.count", std::uint16_t{2}}, {"split.tensors.count", std::int32_t{2}}};
  };
  test::put_file(directory_.path() / "m-00001-of-00002.gguf",
                 gguf_file(part(0), {{"a", {8}, GgmlTypeId::kF32, first}}));
  test::put_file(directory_.path() / "m-00002-of-00002.gguf",
                 gguf_file(part(1), {{"b", {12}, GgmlTypeId::kF32, second}}));

  const Checkpoint model = open_source(*fs_, directory_.path());

  EXPECT_FALSE(model.is_single_file());
  EXPECT_EQ(read(model, "a", 32), first);
  EXPECT_EQ(read(model, "b", 48), second);
}

// ---- which tensors are linear layers

struct Named {
  const char* name;
  KeepReason reason = KeepReason::kNone;
  std::vector<std::int64_t> shape = {64, 64};
};

TEST(GgufKeepReason, IsToldFromNamesOfEveryArchitecture) {
  constexpr KeepReason kLinear = KeepReason::kNone;
  const std::vector<Named> tensors = {
      {"token_embd.weight", KeepReason::kEmbedding},
      {"per_layer_token_embd.weight", KeepReason::kEmbedding},
      {"position_embd.weight", KeepReason::kEmbedding},
      {"token_types.weight", KeepReason::kEmbedding},
      {"token_embd_norm.weight", KeepReason::kNorm, {64}},
      {"output_norm.weight", KeepReason::kNorm, {64}},
      {"output.weight", KeepReason::kHead},
      {"cls.output.weight", KeepReason::kHead},
      {"rope_freqs.weight", KeepReason::kOutsideBlocks, {32}},
      {"per_layer_model_proj.weight", KeepReason::kOutsideBlocks},
      {"dense_2.weight", KeepReason::kOutsideBlocks},
      // Llama, Qwen, Gemma, GPT-2, ...
      {"blk.0.attn_q.weight", kLinear},
      {"blk.11.attn_qkv.weight", kLinear},
      {"blk.0.attn_q.bias", KeepReason::kNotAWeight, {64}},
      {"blk.0.attn_norm.weight", KeepReason::kNorm, {64}},
      {"blk.0.attn_q_norm.weight", KeepReason::kNorm, {64}},
      {"blk.0.attn_q_norm.weight", KeepReason::kNorm, {64, 64}},  // Command R+: a norm for each head
      {"blk.0.attn_sinks.weight", KeepReason::kNotAWeight, {64}},
      {"blk.0.ffn_up.weight", kLinear},
      {"blk.0.per_layer_proj.weight", kLinear},
      {"blk.0.altup_router.weight", KeepReason::kRouter},
      {"blk.0.altup_correct_coef.weight", KeepReason::kNotAWeight},
      {"blk.0.laurel_l.weight", KeepReason::kNotAWeight},
      // Experts
      {"blk.0.ffn_gate_inp.weight", KeepReason::kRouter},
      {"blk.0.ffn_gate_inp_shexp.weight", KeepReason::kRouter, {64}},
      {"blk.0.ffn_gate_exps.7.weight", kLinear},
      {"blk.0.ffn_gate_exps.bias", KeepReason::kNotAWeight},
      {"blk.0.ffn_gate_shexp.weight", kLinear},
      {"blk.0.exp_probs_b.bias", KeepReason::kNotAWeight, {64}},
      // DeepSeek
      {"blk.0.attn_kv_a_mqa.weight", kLinear},
      {"blk.0.attn_kv_b.weight", kLinear},
      {"blk.0.attn_k_b.weight", KeepReason::kNotAWeight, {4, 64, 64}},
      {"blk.61.nextn.eh_proj.weight", kLinear},
      {"blk.61.nextn.embed_tokens.weight", KeepReason::kEmbedding},
      {"blk.61.nextn.shared_head_head.weight", KeepReason::kHead},
      {"blk.61.nextn.shared_head_norm.weight", KeepReason::kNorm, {64}},
      // Mamba, LFM2, RWKV
      {"blk.0.ssm_in.weight", kLinear},
      {"blk.0.ssm_conv1d.weight", KeepReason::kConvolution, {64, 4}},
      {"blk.0.shortconv.conv.weight", KeepReason::kConvolution, {64, 4}},
      {"blk.0.ssm_a", KeepReason::kNotAWeight},
      {"blk.0.time_mix_key.weight", kLinear},
      {"blk.0.time_mix_output.weight", kLinear},
      {"blk.0.channel_mix_value.weight", kLinear},
      {"blk.0.time_mix_w1.weight", KeepReason::kNotAWeight},
      {"blk.0.time_mix_decay_w2.weight", KeepReason::kNotAWeight},
      {"blk.0.time_mix_lerp_fused.weight", KeepReason::kNotAWeight, {5, 1, 1, 64}},
      // T5
      {"enc.blk.0.attn_q.weight", kLinear},
      {"dec.blk.0.cross_attn_k.weight", kLinear},
      {"enc.blk.0.attn_rel_b.weight", KeepReason::kEmbedding},
      // Projectors and towers
      {"v.blk.0.attn_q.weight", KeepReason::kVision},
      {"a.blk.0.ffn_up.weight", KeepReason::kVision},
      {"mm.0.weight", KeepReason::kVision},
      // Unknown ones
      {"blk.0.something_new.weight", kLinear},
      {"blk.0.something_new.weight", kLinear, {32, 32}},
      {"blk.0.something_new.weight", KeepReason::kNotAWeight, {31, 4096}},
      {"blk.0.something_new.weight", KeepReason::kNotAWeight, {4096, 31}},
      {"blk.x.attn_q.weight", KeepReason::kOutsideBlocks},
      {"blk.0", KeepReason::kNotAWeight},
      {"weight", KeepReason::kNotAWeight},
      {"", KeepReason::kNotAWeight},
  };
  for (const Named& tensor : tensors) {
    SourceTensor source;
    source.name = tensor.name;
    source.shape = tensor.shape;
    EXPECT_EQ(describe(gguf_keep_reason(source)), describe(tensor.reason)) << tensor.name;
  }
}

TEST(GgufKeepReason, LeavesWholeNumbers) {
  SourceTensor tensor;
  tensor.name = "blk.0.ffn_gate_tid2eid.weight";
  tensor.shape = {64, 64};
  tensor.dtype = DType::kI32;
  EXPECT_EQ(describe(gguf_keep_reason(tensor)), describe(KeepReason::kDtype));
}

// ---- the file it becomes

GgufHeader header_of(const OutputLayout& layout, std::size_t file) {
  MemoryReadFile bytes(test::bytes_of(layout.files()[file].image));
  return read_gguf_header(bytes, "image");
}

std::vector<std::string> names_of(const std::vector<GgufKey>& keys) {
  std::vector<std::string> names;
  for (const GgufKey& key : keys) names.push_back(key.name);
  return names;
}

class GgufCopyTest : public GgufSourceTest {
 protected:
  GgufCopyTest()
      : model_(open({{"blk.0.attn_norm.weight", {64}, GgmlTypeId::kF32},
                     {"blk.0.attn_q.weight", {64, 32}, GgmlTypeId::kF16},
                     {"token_embd.weight", {64, 40}, GgmlTypeId::kQ8_0},
                     {"blk.0.ffn_up_exps.weight", {64, 32, 3}, GgmlTypeId::kQ8_0},
                     {"blk.0.ffn_down_exps.weight", {48, 32, 3}, GgmlTypeId::kBF16},
                     {"ids", {9}, GgmlTypeId::kI32}},
                    {{"general.architecture", std::string("anything")},
                     {"general.file_type", std::uint32_t{1}},
                     {"split.count", std::uint16_t{0}},
                     {"general.alignment", std::uint32_t{128}},
                     {"anything.list", GgufArray(std::vector<float>{1.5F, -0.0F})}})) {
    Recipe recipe;
    recipe.defaults.width = CodeWidth::k4;
    recipe.defaults.group_size = 32;
    decisions_ = decide(model_, recipe,
                        {.adapt = [this](QuantSpec& spec, std::int64_t cols) { format_.adapt(spec, cols); },
                         .why_not = [this](const QuantSpec& spec, std::int64_t rows,
                                           std::int64_t cols) { return format_.why_not(spec, rows, cols); }});
    format_.settle(model_, decisions_);
  }

  const Format& format_ = *format_named("gguf");
  Checkpoint model_;
  std::vector<Decision> decisions_;
};

TEST_F(GgufCopyTest, KeepsKeysOrderTypesAndAlignment) {
  const OutputLayout layout(model_, decisions_, DType::kF16, OutputLayout::kOneFile, format_);

  const GgufHeader header = header_of(layout, 0);

  EXPECT_THAT(names_of(header.keys), ElementsAre("general.architecture", "general.file_type", "general.alignment",
                                                 "anything.list", "general.quantization_version"));
  EXPECT_EQ(*header.find("general.file_type"), GgufValue(std::uint32_t{3}));
  EXPECT_EQ(*header.find("general.quantization_version"), GgufValue(std::uint32_t{2}));
  EXPECT_EQ(*header.find("anything.list"), *model_.gguf()->find("anything.list"));
  EXPECT_EQ(header.alignment, 128U);
  std::vector<std::string> tensors;
  for (const GgufTensor& tensor : header.tensors) {
    tensors.push_back(tensor.name + " " + std::string(find_ggml_type(tensor.type)->name));
  }
  EXPECT_THAT(tensors, ElementsAre("blk.0.attn_norm.weight F32", "blk.0.attn_q.weight Q4_1", "token_embd.weight Q8_0",
                                   "blk.0.ffn_up_exps.weight Q4_1", "blk.0.ffn_down_exps.weight BF16", "ids I32"));
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    EXPECT_EQ(header.tensors[i].dims, model_.gguf()->tensors[i].dims);
  }
}

TEST_F(GgufCopyTest, EveryPartHasTheAlignmentAndSaysWhichItIs) {
  const OutputLayout layout(model_, decisions_, DType::kF16, 1, format_);

  ASSERT_EQ(layout.files().size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    const GgufHeader header = header_of(layout, i);
    EXPECT_EQ(header.alignment, 128U);
    EXPECT_EQ(*header.find("split.no"), GgufValue(static_cast<std::uint16_t>(i)));
    EXPECT_EQ(*header.find("split.count"), GgufValue(std::uint16_t{6}));
    EXPECT_EQ(*header.find("split.tensors.count"), GgufValue(std::int32_t{6}));
    EXPECT_EQ(header.find("general.architecture") != nullptr, i == 0);
  }
}

TEST_F(GgufCopyTest, ExpertsAreQuantizedTogetherOrNotAtAll) {
  std::vector<Decision> decisions = decisions_;
  for (Decision& decision : decisions) {
    if (model_.tensors()[decision.source].name == "blk.0.ffn_up_exps.1.weight") decision.keep = KeepReason::kSkipped;
  }
  format_.settle(model_, decisions);
  const OutputLayout layout(model_, decisions, DType::kF16, OutputLayout::kOneFile, format_);

  EXPECT_EQ(find_ggml_type(header_of(layout, 0).tensors[3].type)->name, "Q8_0");
  EXPECT_EQ(layout.quantized().size(), 1U);
}

TEST_F(GgufCopyTest, ATensorThatIsNotThereIsNamed) {
  std::vector<SourceTensor> fewer(model_.tensors().begin(), model_.tensors().end() - 1);
  test::expect_error(ErrorCode::kBadInput, {"\"ids\""},
                     [&] { static_cast<void>(copy_gguf_model(model_.with_tensors(fewer, {}))); });
}

}  // namespace
}  // namespace halfquad
