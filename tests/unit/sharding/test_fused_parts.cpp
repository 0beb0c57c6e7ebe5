#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/format.h"
#include "sharding/fused_parts.h"
#include "sharding/rules.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/format_limits.h"
#include "tests/unit/sharding/header_checkpoint.h"

namespace halfquad {
namespace {

/// What a format makes of a Llama-shaped model: hidden size 64, 96 between gate and down.
struct Settled {
  Settled(std::string_view format, const std::string& recipe, bool fallback = false) : checkpoint(llama_tensors()) {
    const Format& chosen = *format_named(format);
    SpecLimits limits = test::limits_of(chosen);
    limits.group_fallback = fallback;
    decisions = decide(*checkpoint, parse_recipe(recipe, "test"), limits);
    chosen.settle(*checkpoint, decisions);
  }
  [[nodiscard]] const Decision& of(std::string_view name) const {
    for (const Decision& decision : decisions) {
      if (checkpoint->tensors()[decision.source].name == name) return decision;
    }
    throw std::runtime_error("no such tensor");
  }

  HeaderCheckpoint checkpoint;
  std::vector<Decision> decisions;
};

TEST(FusedParts, ShareOneSettingOrAreRefusedByName) {
  const std::string recipe = R"({"group_size": 32, "rules": [{"match": "q_proj", "bits": 8}]})";

  test::expect_error(ErrorCode::kUsage, {"q_proj", "k_proj", "different settings"},
                     [&] { const Settled settled("compressed-tensors", recipe); });
  const Settled free("mlx", recipe);  // whose engine does not merge them
  EXPECT_EQ(free.of("model.layers.0.self_attn.q_proj.weight").spec.width, CodeWidth::k8);
  const Settled all("compressed-tensors", R"({"group_size": 32, "rules": [{"match": "[qkv]_proj", "bits": 8}]})");
  EXPECT_EQ(all.of("model.layers.1.self_attn.v_proj.weight").spec.width, CodeWidth::k8);
  EXPECT_EQ(all.of("model.layers.1.self_attn.o_proj.weight").spec.width, CodeWidth::k4);
}

TEST(FusedParts, AreKeptTogetherWhenOneDoesNotFit) {
  const Settled settled("compressed-tensors",
                        R"({"group_size": 32, "rules": [{"match": "up_proj", "group_size": 48}]})");

  for (const std::string part : {"up", "gate"}) {
    const Decision& decision = settled.of("model.layers.0.mlp." + part + "_proj.weight");
    EXPECT_EQ(decision.keep, KeepReason::kShape) << part;
  }
  EXPECT_TRUE(settled.of("model.layers.0.mlp.down_proj.weight").quantize());
}

TEST(FusedParts, AreKeptTogetherWhenOneHoldsANaN) {
  Settled settled("compressed-tensors", R"({"group_size": 32})");
  for (Decision& decision : settled.decisions) {
    if (settled.checkpoint->tensors()[decision.source].name == "model.layers.1.self_attn.k_proj.weight") {
      decision.keep = KeepReason::kNonfinite;
    }
  }

  format_named("compressed-tensors")->settle(*settled.checkpoint, settled.decisions);

  for (const std::string part : {"q", "k", "v"}) {
    EXPECT_EQ(settled.of("model.layers.1.self_attn." + part + "_proj.weight").keep, KeepReason::kNonfinite) << part;
  }
  EXPECT_NE(settled.of("model.layers.1.self_attn.q_proj.weight").why.find("k_proj"), std::string::npos);
  EXPECT_TRUE(settled.of("model.layers.0.self_attn.q_proj.weight").quantize());
}

TEST(GroupFallback, TakesTheLargestSizeThatFitsByHalves) {
  const Settled without("mlx", R"({"group_size": 64})");
  const Settled with("mlx", R"({"group_size": 64})", /*fallback=*/true);

  const std::string down = "model.layers.0.mlp.down_proj.weight";  // rows of 96
  EXPECT_EQ(without.of(down).keep, KeepReason::kShape);
  EXPECT_NE(without.of(down).why.find("does not divide"), std::string::npos);
  EXPECT_TRUE(with.of(down).quantize());
  EXPECT_EQ(with.of(down).spec.group_size, 32);
  EXPECT_EQ(with.of("model.layers.0.mlp.up_proj.weight").spec.group_size, 64);
}

TEST(Formats, SetWhatTheyLeaveNoChoiceAbout) {
  const std::string layer = "model.layers.0.self_attn.q_proj.weight";
  EXPECT_EQ(Settled("awq", R"({"group_size": 32})").of(layer).spec.zeros, ZeroKind::kInteger);
  EXPECT_EQ(Settled("mlx", R"({"group_size": 32})").of(layer).spec.zeros, ZeroKind::kFloat);
  QuantSpec eight_bits;
  eight_bits.width = CodeWidth::k8;
  format_named("gguf")->adapt(eight_bits, 256);
  EXPECT_EQ(eight_bits.zeros, ZeroKind::kSymmetric);
  test::expect_error(ErrorCode::kUsage, {"awq has no 3-bit codes"},
                     [] { const Settled settled("awq", R"({"group_size": 32, "bits": 3})"); });
  test::expect_error(ErrorCode::kUsage, {"axis 1"},
                     [] { const Settled settled("mlx", R"({"group_size": 32, "axis": 0})"); });
}

}  // namespace
}  // namespace halfquad
