#include <string>
#include <vector>

#include <boost/json.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "header_checkpoint.h"
#include "sharding/formats/hqq_config.h"
#include "sharding/formats/registry.h"
#include "sharding/output_layout.h"

namespace halfquad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

std::vector<Decision> decide_by(const Checkpoint& checkpoint, const std::string& recipe) {
  return decide(checkpoint, parse_recipe(recipe, "test"));
}

std::vector<std::string> skip_modules(const Checkpoint& checkpoint, const std::string& recipe) {
  const boost::json::object config = hqq_config(checkpoint, decide_by(checkpoint, recipe));
  std::vector<std::string> names;
  for (const boost::json::value& name : config.at("quantization_config").at("skip_modules").as_array()) {
    names.emplace_back(name.as_string());
  }
  return names;
}

TEST(HqqConfig, HasTheShapeTransformersReads) {
  const HeaderCheckpoint checkpoint(llama_tensors(), R"({"model_type": "llama", "hidden_size": 64})");

  const boost::json::object config = hqq_config(*checkpoint, decide_by(*checkpoint, R"({"group_size": 32})"));

  EXPECT_EQ(boost::json::value(config), boost::json::parse(R"({
    "model_type": "llama", "hidden_size": 64,
    "quantization_config": {
      "quant_config": {
        "weight_quant_params": {"nbits": 4, "channel_wise": true, "group_size": 32, "optimize": true,
                                "round_zero": true, "axis": 1, "view_as_float": false},
        "scale_quant_params": null, "zero_quant_params": null, "offload_meta": false},
      "quant_method": "hqq", "skip_modules": ["lm_head"]}})"));
}

TEST(HqqConfig, NamesTheMostFrequentSpec) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  const std::string recipe =
      R"({"bits": 8, "group_size": 32, "rules": [{"match": "self_attn", "bits": 1.58, "group_size": "row",
          "solver": "rtn"}]})";

  const boost::json::object config = hqq_config(*checkpoint, decide_by(*checkpoint, recipe));

  const boost::json::value& params = config.at("quantization_config").at("quant_config").at("weight_quant_params");
  EXPECT_EQ(params.at("nbits"), 1.58);
  EXPECT_TRUE(params.at("group_size").is_null());
  EXPECT_EQ(params.at("optimize"), false);
  EXPECT_EQ(params.at("round_zero"), false);
}

TEST(HqqConfig, WorksWithoutASourceConfig) {
  const HeaderCheckpoint checkpoint(llama_tensors(), "");

  const boost::json::object config = hqq_config(*checkpoint, decide_by(*checkpoint, R"({"group_size": 32})"));

  EXPECT_EQ(config.size(), 1U);
}

TEST(HqqConfig, SkipsLmHeadAndEveryLinearLayerLeftPlain) {
  std::vector<FakeTensor> tensors = llama_tensors();
  tensors.push_back({"model.layers.1.mlp.gate.weight", {8, 64}});
  tensors.push_back({"pooler.dense.weight", {64, 64}});
  tensors.push_back({"pooler.dense.bias", {64}});
  tensors.push_back({"vision_tower.layers.0.fc1.weight", {64, 64}});
  const HeaderCheckpoint checkpoint(tensors);

  EXPECT_THAT(skip_modules(*checkpoint, R"({"group_size": 32, "skip": ["layers.0.mlp.down"]})"),
              ElementsAre("lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.gate", "pooler.dense",
                          "vision_tower.layers.0.fc1"));
}

TEST(HqqConfig, ListsLmHeadOfTiedModelsToo) {
  std::vector<FakeTensor> tensors = llama_tensors();
  tensors.erase(tensors.begin());
  const HeaderCheckpoint checkpoint(tensors);

  EXPECT_THAT(skip_modules(*checkpoint, R"({"group_size": 32})"), ElementsAre("lm_head"));
}

TEST(HqqConfig, LeavesOutAQuantizedLmHead) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  EXPECT_THAT(skip_modules(*checkpoint, R"({"group_size": 32, "rules": [{"match": "lm_head", "bits": 8}]})"),
              IsEmpty());
}

TEST(GptqConfig, SaysWhetherLmHeadIsQuantized) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  const auto quantization_by = [&](const std::string& recipe) {
    return gptq_format().config(*checkpoint, decide_by(*checkpoint, recipe)).at("quantization_config").as_object();
  };

  const auto usual = quantization_by(R"({"group_size": 32})");
  const auto with_head = quantization_by(R"({"group_size": 32, "rules": [{"match": "lm_head", "bits": 8}]})");

  EXPECT_EQ(usual.at("lm_head"), false);
  EXPECT_EQ(with_head.at("lm_head"), true);
  EXPECT_EQ(with_head.at("dynamic").at("+:^lm_head$").at("bits"), 8);
}

TEST(SkipConflicts, FindsQuantizedModulesThatASkipEntryWouldHide) {
  const HeaderCheckpoint checkpoint({{"layers.0.mlp.gate.weight", {8, 64}},
                                     {"layers.0.mlp.gate_proj.weight", {64, 64}},
                                     {"layers.0.mlp.up_proj.weight", {64, 64}}});
  const HeaderCheckpoint plain(llama_tensors());

  EXPECT_THAT(skip_conflicts(*checkpoint, decide_by(*checkpoint, "{}")),
              ElementsAre(Pair("layers.0.mlp.gate", "layers.0.mlp.gate_proj")));
  EXPECT_THAT(skip_conflicts(*plain, decide_by(*plain, R"({"group_size": 32})")), IsEmpty());
}

}  // namespace
}  // namespace halfquad
