#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "kernels/column_importance.h"
#include "sharding/given_importance.h"
#include "sharding/importance_names.h"
#include "sharding/source_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_file.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/sharding/header_checkpoint.h"

namespace halfquad {
namespace {

using test::expect_error;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

const std::filesystem::path kGolden = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "importance";

/// The names of the golden files' model, two blocks, as Hugging Face's classes call them.
std::vector<FakeTensor> model_tensors() {
  std::vector<FakeTensor> tensors;
  for (const std::string block : {"model.layers.0.", "model.layers.1."}) {
    for (const std::string proj : {"k_proj", "o_proj", "q_proj", "v_proj"}) {
      tensors.push_back({block + "self_attn." + proj + ".weight", {64, 64}});
    }
  }
  const auto add_mlp = [&](const std::string& prefix) {
    tensors.push_back({prefix + "gate_proj.weight", {96, 64}});
    tensors.push_back({prefix + "up_proj.weight", {96, 64}});
    tensors.push_back({prefix + "down_proj.weight", {64, 96}});
  };
  add_mlp("model.layers.0.mlp.");
  for (int expert = 0; expert < 4; ++expert) add_mlp("model.layers.1.mlp.experts." + std::to_string(expert) + ".");
  return tensors;
}

/// Decisions that weigh every tensor as a file says.
std::vector<Decision> decisions_of(const Checkpoint& checkpoint) {
  std::vector<Decision> decisions;
  for (std::size_t i = 0; i < checkpoint.tensors().size(); ++i) {
    Decision& decision = decisions.emplace_back();
    decision.source = i;
    decision.spec.solver = SolverKind::kAls;
    decision.spec.importance = Importance::kFile;
  }
  return decisions;
}

/// Vectors by the name of the tensor.
std::map<std::string, std::vector<float>> weights_by_name(const GivenImportance& importance,
                                                          const Checkpoint& checkpoint,
                                                          const std::vector<Decision>& decisions) {
  std::map<std::string, std::vector<float>> all;
  for (const Decision& decision : decisions) {
    if (decision.spec.importance != Importance::kFile || decision.unmeasured) continue;
    all[checkpoint.tensors()[decision.source].name] = *importance.weights_of(decision.source, 1);
  }
  return all;
}

class GivenImportanceTest : public testing::Test {
 protected:
  std::string put(const std::vector<test::TestTensor>& vectors) {
    const std::filesystem::path path = folder_.path() / "given.safetensors";
    test::put_safetensors(path, vectors);
    return path.string();
  }

  void expect_refused(const std::vector<test::TestTensor>& vectors, std::initializer_list<std::string_view> parts) {
    const HeaderCheckpoint checkpoint(model_tensors());
    std::vector<Decision> decisions = decisions_of(*checkpoint);
    GivenImportance importance(*fs_, put(vectors));
    expect_error(ErrorCode::kBadInput, parts, [&] { importance.assign(*checkpoint, decisions); });
  }

  test::TempDir folder_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

TEST_F(GivenImportanceTest, IsTheSameFromEveryKindOfFile) {
  const HeaderCheckpoint checkpoint(model_tensors());
  std::vector<std::map<std::string, std::vector<float>>> found;
  for (const std::string name : {"imatrix.gguf", "imatrix.dat", "modules.safetensors"}) {
    SCOPED_TRACE(name);
    GivenImportance importance(*fs_, kGolden / name);
    std::vector<Decision> decisions = decisions_of(*checkpoint);
    importance.assign(*checkpoint, decisions);
    found.push_back(weights_by_name(importance, *checkpoint, decisions));
    if (name == "modules.safetensors") {
      EXPECT_EQ(importance.layers(), 20U);
      EXPECT_THAT(importance.missing(), UnorderedElementsAre("model.layers.1.mlp.experts.1.down_proj.weight",
                                                             "model.layers.1.mlp.experts.2.down_proj.weight",
                                                             "model.layers.1.mlp.experts.3.down_proj.weight"));
    } else {  // no token reached expert 1
      EXPECT_EQ(importance.layers(), 20U);
      EXPECT_THAT(importance.missing(), UnorderedElementsAre("model.layers.1.mlp.experts.1.down_proj.weight",
                                                             "model.layers.1.mlp.experts.1.gate_proj.weight",
                                                             "model.layers.1.mlp.experts.1.up_proj.weight"));
    }
  }
  for (const auto& [name, h] : found[0]) {
    SCOPED_TRACE(name);
    for (const std::size_t other : {1U, 2U}) {
      if (!found[other].contains(name)) continue;
      const std::vector<float>& same = found[other].at(name);
      ASSERT_EQ(same.size(), h.size());
      for (std::size_t col = 0; col < h.size(); ++col) EXPECT_NEAR(same[col] / h[col], 1, 1e-5);
    }
  }
  EXPECT_NE(found[0].at("model.layers.1.mlp.experts.0.up_proj.weight"),
            found[0].at("model.layers.1.mlp.experts.2.up_proj.weight"));
  EXPECT_NE(found[0].at("model.layers.0.self_attn.q_proj.weight"),
            found[0].at("model.layers.1.self_attn.q_proj.weight"));
}

TEST_F(GivenImportanceTest, OfGgufModelsGoesByTheirNames) {
  const std::filesystem::path model = folder_.path() / "model.gguf";
  test::put_file(model, test::gguf_file({}, {{"blk.0.attn_q.weight", {64, 32}},
                                             {"blk.0.ffn_down.weight", {96, 64}},
                                             {"blk.1.ffn_up_exps.weight", {64, 96, 4}}}));
  const Checkpoint checkpoint = open_source(*fs_, model);
  for (const std::string name : {"imatrix.gguf", "modules.safetensors"}) {
    GivenImportance importance(*fs_, kGolden / name);
    std::vector<Decision> decisions = decisions_of(checkpoint);
    importance.assign(checkpoint, decisions);
    const auto found = weights_by_name(importance, checkpoint, decisions);
    EXPECT_EQ(found.size(), name == "imatrix.gguf" ? 5U : 6U);  // without expert 1
    EXPECT_EQ(found.at("blk.0.ffn_down.weight").size(), 96U);
    EXPECT_EQ(found.at("blk.1.ffn_up_exps.3.weight").size(), 64U);
    EXPECT_NE(found.at("blk.1.ffn_up_exps.3.weight"), found.at("blk.1.ffn_up_exps.0.weight"));
  }
}

TEST_F(GivenImportanceTest, IsThatOfItsMeasuresWithTheirPower) {
  const HeaderCheckpoint checkpoint({{"a.weight", {8, 4}}});
  std::vector<Decision> decisions = decisions_of(*checkpoint);
  const std::vector<float> measures = {1, 0, 400, 1e9F};
  GivenImportance importance(*fs_, put({test::f32_tensor("a", {4}, measures)}));
  importance.assign(*checkpoint, decisions);
  EXPECT_EQ(*importance.weights_of(0, 0.5), importance_of(measures, {0.5, 1e-3F, 1e4F}));
}

TEST_F(GivenImportanceTest, OfOneRowIsForAllExperts) {
  const HeaderCheckpoint checkpoint(model_tensors());
  std::vector<Decision> decisions = decisions_of(*checkpoint);
  std::vector<float> measures(64, 1);
  measures[3] = 50;
  GivenImportance importance(*fs_, put({test::f32_tensor("model.layers.1.mlp.experts.gate_up_proj", {64}, measures)}));
  importance.assign(*checkpoint, decisions);
  EXPECT_EQ(importance.layers(), 8U);
  for (const auto& [name, h] : weights_by_name(importance, *checkpoint, decisions)) {
    EXPECT_EQ(h, importance_of(measures)) << name;
  }
}

TEST_F(GivenImportanceTest, IsAskedForAlsAlone) {
  const HeaderCheckpoint checkpoint(model_tensors());
  std::vector<Decision> decisions = decisions_of(*checkpoint);
  decisions[0].spec.solver = SolverKind::kRtn;
  decisions[1].spec.importance = Importance::kNone;
  decisions[2].keep = KeepReason::kSkipped;
  GivenImportance importance(*fs_, kGolden / "imatrix.gguf");
  importance.assign(*checkpoint, decisions);
  EXPECT_EQ(importance.layers() + importance.missing().size(), decisions.size() - 3);
  EXPECT_EQ(decisions[1].spec.importance, Importance::kNone);
}

TEST_F(GivenImportanceTest, WithoutAnyLayerIsOfAnotherModel) {
  expect_refused({test::f32_tensor("encoder.x", {64}, std::vector<float>(64, 1))},
                 {"none of its 1 entries belongs to a layer", "\"encoder.x\"", "model.layers.0.self_attn.k_proj"});
}

TEST_F(GivenImportanceTest, OfAnotherLengthIsRefusedWithBoth) {
  const std::vector<float> measures(128, 1);
  expect_refused({test::f32_tensor("model.layers.0.self_attn.o_proj", {128}, measures)},
                 {"\"model.layers.0.self_attn.o_proj\" holds 128 values",
                  "\"model.layers.0.self_attn.o_proj.weight\" has 64 inputs"});
  expect_refused({test::f32_tensor("model.layers.0.self_attn.o_proj", {2, 64}, measures)}, {"has 64 inputs"});
  expect_refused({test::f32_tensor("model.layers.1.mlp.experts.up_proj", {2, 64}, measures)},
                 {"holds 128 values", "is one of 4 experts with 64 inputs each"});
}

TEST_F(GivenImportanceTest, ThatCannotBeASquareIsRefused) {
  for (const float value : {-1.0F, __builtin_inff(), __builtin_nanf("")}) {
    std::vector<float> measures(64, 1);
    measures[5] = value;
    expect_refused({test::f32_tensor("model.layers.0.self_attn.o_proj", {64}, measures)},
                   {"value 5 of \"model.layers.0.self_attn.o_proj\"", "finite and not negative"});
  }
}

TEST_F(GivenImportanceTest, OfZerosAloneIsNone) {
  const HeaderCheckpoint checkpoint(model_tensors());
  std::vector<Decision> decisions = decisions_of(*checkpoint);
  GivenImportance importance(
      *fs_, put({test::f32_tensor("model.layers.0.self_attn.o_proj", {64}, std::vector<float>(64)),
                 test::f32_tensor("model.layers.1.self_attn.o_proj", {64}, std::vector<float>(64, 1))}));
  importance.assign(*checkpoint, decisions);
  EXPECT_EQ(importance.layers(), 1U);
}

struct NameCase {
  const char* name;
  const char* layer;
  std::int64_t expert = -1;
};

TEST(ImportanceNames, AreThoseOfGguf) {
  const std::vector<NameCase> cases = {
      {"blk.3.attn_q.weight", "blk.3.attn_q"},
      {"blk.3.ffn_up_exps", "blk.3.ffn_up_exps"},
      {"blk.3.ffn_up_exps.17.weight", "blk.3.ffn_up_exps", 17},
      {"blk.3.ffn_up.17.weight", "blk.3.ffn_up_exps", 17},
      {"output.weight", "output"},
      {"lm_head.weight", "output"},
      {"model.embed_tokens.weight", "token_embd"},
      {"model.layers.12.self_attn.q_proj.weight", "blk.12.attn_q"},
      {"model.layers.12.self_attn.qkv_proj", "blk.12.attn_qkv"},
      {"model.layers.0.self_attn.kv_a_proj_with_mqa", "blk.0.attn_kv_a_mqa"},
      {"model.layers.0.self_attn.kv_b_proj", "blk.0.attn_kv_b"},
      {"model.layers.1.mlp.experts.7.down_proj.weight", "blk.1.ffn_down_exps", 7},
      {"model.layers.1.mlp.experts.gate_up_proj", "blk.1.ffn_gate_up_exps"},
      {"model.layers.1.block_sparse_moe.experts.2.w3.weight", "blk.1.ffn_up_exps", 2},
      {"model.layers.1.feed_forward.experts.2.up_proj.weight", "blk.1.ffn_up_exps", 2},
      {"model.language_model.layers.4.mlp.up_proj.weight", "blk.4.ffn_up"},
      {"language_model.model.layers.4.mlp.up_proj.weight", "blk.4.ffn_up"},
      {"encoder.layer.5.attention.self.query.weight", "blk.5.attn_q"},
      {"encoder.layer.5.output.dense.weight", "blk.5.ffn_down"},
      {"gpt_neox.layers.0.attention.query_key_value.weight", "blk.0.attn_qkv"},
  };
  for (const NameCase& one : cases) {
    const auto found = gguf_input_name(one.name);
    ASSERT_TRUE(found.has_value()) << one.name;
    EXPECT_EQ(found->layer, one.layer) << one.name;
    EXPECT_EQ(found->expert, one.expert) << one.name;
  }
  for (const char* other : {"model.vision_tower.layers.0.self_attn.q_proj", "classifier.weight", "", ".weight", "a.b",
                            "model.layers.x.self_attn.q_proj", "model.layers.1.mixer.in_proj", "layers.5"}) {
    EXPECT_FALSE(gguf_input_name(other).has_value()) << other;
  }
}

TEST(ImportanceNames, ShareTheInputsOfABlock) {
  EXPECT_THAT(layers_of_same_inputs("blk.2.attn_k"),
              ElementsAre("blk.2.attn_k", "blk.2.attn_q", "blk.2.attn_v", "blk.2.attn_qkv"));
  EXPECT_THAT(layers_of_same_inputs("blk.2.ffn_gate_up_exps"),
              ElementsAre("blk.2.ffn_gate_up_exps", "blk.2.ffn_gate_exps", "blk.2.ffn_up_exps"));
  EXPECT_THAT(layers_of_same_inputs("blk.2.ffn_down"), ElementsAre("blk.2.ffn_down"));
  EXPECT_THAT(layers_of_same_inputs("output"), ElementsAre("output"));
}

}  // namespace
}  // namespace halfquad
