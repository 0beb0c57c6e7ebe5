#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "preset_plan.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using test::expect_error;

TEST(ClusterRates, TakeWhatIsGivenAndSayWhatIsAssumed) {
  const ClusterRates rates = parse_cluster_rates(
      R"({"read_gb_per_s_per_node": 20, "file_system_gb_per_s": 500.5, "mweights_per_s_per_core": 100,
          "cores_per_rank": 16})",
      "r.json");

  EXPECT_DOUBLE_EQ(rates.read_bytes_per_s_per_node, 20e9);
  EXPECT_DOUBLE_EQ(rates.file_system_bytes_per_s, 500.5e9);
  EXPECT_DOUBLE_EQ(rates.weights_per_s_per_core, 1e8);
  EXPECT_EQ(rates.cores_per_rank, 16);
  EXPECT_DOUBLE_EQ(rates.write_bytes_per_s_per_node, ClusterRates{}.write_bytes_per_s_per_node);
  EXPECT_EQ(rates.origin, "from r.json; assumed: write_gb_per_s_per_node");
}

TEST(ClusterRates, RefuseWhatIsNoRate) {
  const auto refuse = [](const char* text, std::initializer_list<std::string_view> parts) {
    expect_error(ErrorCode::kBadInput, parts, [&] { (void)parse_cluster_rates(text, "r.json"); });
  };
  refuse("[1]", {"r.json", "object"});
  refuse("{", {"r.json"});
  refuse(R"({"read": 1})", {"r.json", "\"read\"", "read_gb_per_s_per_node"});
  refuse(R"({"read_gb_per_s_per_node": "fast"})", {"\"read_gb_per_s_per_node\"", "not a number"});
  refuse(R"({"write_gb_per_s_per_node": -1})", {"\"write_gb_per_s_per_node\" is -1"});
  refuse(R"({"file_system_gb_per_s": 1e300})", {"\"file_system_gb_per_s\""});
  refuse(R"({"mweights_per_s_per_core": 0})", {"\"mweights_per_s_per_core\" is 0", "above 0"});
  refuse(R"({"cores_per_rank": 1.5})", {"\"cores_per_rank\" is 1.5", "whole number"});
  refuse(R"({"cores_per_rank": 0})", {"\"cores_per_rank\" is 0"});
}

TEST(Topology, PutsRanksOnNodesInBlocks) {
  const Topology topology{10, 4};
  std::vector<int> nodes;
  for (int rank = 0; rank < 10; ++rank) nodes.push_back(topology.node_of(rank));
  EXPECT_THAT(nodes, testing::ElementsAre(0, 0, 0, 1, 1, 2, 2, 2, 3, 3));
}

TEST(Topology, RefusesWhatCannotBe) {
  EXPECT_NO_THROW(require_valid({65536, 65536}));
  expect_error(ErrorCode::kUsage, {"0 ranks", "1 to 65536"}, [] { require_valid({0, 1}); });
  expect_error(ErrorCode::kUsage, {"65537 ranks"}, [] { require_valid({65537, 1}); });
  expect_error(ErrorCode::kUsage, {"5 nodes asked for 4 ranks"}, [] { require_valid({4, 5}); });
  expect_error(ErrorCode::kUsage, {"0 nodes"}, [] { require_valid({4, 0}); });
}

TEST(BoundOf, NamesTheSlowestStageOfAllNodesTogether) {
  Plan plan;
  plan.read_bytes = 1000;
  plan.output_bytes = 300;
  plan.weights = 500;
  const Topology two_nodes{4, 2};
  ClusterRates rates{.read_bytes_per_s_per_node = 50, .write_bytes_per_s_per_node = 50, .weights_per_s_per_core = 10};

  const Bound solving = bound_of(plan, rates, two_nodes, 4);
  EXPECT_EQ(solving.name, "solving");
  EXPECT_DOUBLE_EQ(solving.seconds, 12.5);
  EXPECT_DOUBLE_EQ(solving.read_seconds, 10);
  EXPECT_DOUBLE_EQ(solving.write_seconds, 3);
  EXPECT_DOUBLE_EQ(solving.file_system_seconds, 0);
  EXPECT_EQ(bound_of(plan, rates, two_nodes, 8).name, "reading");
  rates.file_system_bytes_per_s = 65;
  EXPECT_EQ(bound_of(plan, rates, two_nodes, 4).name, "the file system");
  EXPECT_DOUBLE_EQ(bound_of(plan, rates, two_nodes, 4).seconds, 20);
}

TEST(ItemWeights, AreThoseOfThePlan) {
  const test::PresetPlan tiny({.preset = "tiny"});
  EXPECT_EQ(std::accumulate(tiny.weights.begin(), tiny.weights.end(), std::uint64_t{0}), tiny.plan.weights);
  for (std::size_t i = 0; i < tiny.weights.size(); ++i) {
    EXPECT_EQ(tiny.weights[i] == 0, tiny.plan.items[i].kind == WorkItem::Kind::kCopy);
  }
}

TEST(RankLoads, AddUpAndCountCutTensors) {
  Plan plan;
  for (std::size_t tensor = 0; tensor < 2; ++tensor) {
    for (int tile = 0; tile < 3; ++tile) plan.items.push_back({WorkItem::Kind::kTile, tensor, tile, 8, 2, 5});
  }
  const std::vector<std::uint64_t> weights(6, 4);

  const std::vector<RankLoad> two = rank_loads(plan, weights, 2);
  ASSERT_EQ(two.size(), 2U);
  EXPECT_EQ(two[1].items, 3U);
  EXPECT_EQ(two[1].read_bytes, 15U);
  EXPECT_EQ(two[1].output_bytes, 6U);
  EXPECT_EQ(two[1].weights, 12U);
  EXPECT_EQ(two[0].tensors_cut + two[1].tensors_cut, 0U);

  const std::vector<RankLoad> three = rank_loads(plan, weights, 3);  // two tiles each: the middle one has two tails
  EXPECT_EQ(three[0].tensors_cut, 1U);
  EXPECT_EQ(three[1].tensors_cut, 2U);
  EXPECT_EQ(rank_loads(plan, weights, 6)[1].tensors_cut, 1U) << "a tile between others of its tensor";
}

}  // namespace
}  // namespace halfquad
