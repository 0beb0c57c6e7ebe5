#include <CLI/CLI.hpp>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "launcher/options.h"
#include "sharding/output_layout.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;

class SpecOptionsTest : public ::testing::Test {
 protected:
  /// Parses `arguments` and builds the recipe.
  Recipe recipe(std::vector<std::string> arguments) {
    CLI::App app;
    SpecOptions options;
    add_spec_options(app, options);
    std::reverse(arguments.begin(), arguments.end());
    app.parse(arguments);
    return options.build_recipe(*files_);
  }

  std::unique_ptr<FileSystem> files_ = make_posix_file_system();
  test::TempDir directory_;
};

TEST_F(SpecOptionsTest, SaysNothingWithoutOptions) {
  const Recipe built = recipe({});

  QuantSpec spec;
  built.defaults.apply_to(spec);
  EXPECT_EQ(spec, QuantSpec{});
  EXPECT_FALSE(built.defaults.round_zero.has_value());
  EXPECT_TRUE(built.rules.empty());
  EXPECT_TRUE(built.skip.empty());
}

TEST_F(SpecOptionsTest, TakesWhatTheAlsSolverNeeds) {
  const Recipe built =
      recipe({"--solver", "als", "--starts", "7", "--iters", "3", "--importance", "none", "--importance-power", "0.5"});

  QuantSpec spec;
  built.defaults.apply_to(spec);
  EXPECT_EQ(spec.solver, SolverKind::kAls);
  EXPECT_EQ(spec.starts, 7);
  EXPECT_EQ(spec.rounds, 3);
  EXPECT_EQ(spec.importance, Importance::kNone);
  EXPECT_EQ(spec.importance_power, 0.5);
}

TEST_F(SpecOptionsTest, ATypeStandsForBitsAndGroups) {
  const Recipe built = recipe({"--type", "q4_k"});

  EXPECT_EQ(built.defaults.width, CodeWidth::k4);
  EXPECT_EQ(built.defaults.group_size, 32);
  EXPECT_EQ(built.defaults.super_blocks, true);
}

TEST_F(SpecOptionsTest, ATypeWithATableLeavesTheGroupSize) {
  const Recipe alone = recipe({"--type", "NF4"});
  EXPECT_EQ(alone.defaults.width, CodeWidth::k4);
  EXPECT_EQ(alone.defaults.group_size, 64);
  EXPECT_EQ(alone.defaults.grid, FloatGrid::kNf4);
  const Recipe grouped =
      recipe({"--type", "learned3", "--group-size", "128", "--rule", "x=type:fp4-e2m1,group-size:32"});
  EXPECT_EQ(grouped.defaults.width, CodeWidth::k3);
  EXPECT_EQ(grouped.defaults.group_size, 128);
  EXPECT_EQ(grouped.rules[0].spec.grid, FloatGrid::kFp4);
  EXPECT_EQ(grouped.rules[0].spec.group_size, 32);
}

TEST_F(SpecOptionsTest, TakesEveryOption) {
  const Recipe built = recipe({"--bits",
                               "1.58",
                               "--group-size",
                               "row",
                               "--axis",
                               "0",
                               "--solver",
                               "rtn",
                               "--iters",
                               "7",
                               "--round-zero",
                               "off",
                               "--per-tensor",
                               "--rule",
                               "a[0-9]=bits:3,group-size:32",
                               "--rule",
                               "b=keep:on",
                               "--skip",
                               "c",
                               "-s",
                               "[d]"});

  EXPECT_EQ(built.defaults.width, CodeWidth::k1_58);
  EXPECT_EQ(built.defaults.group_size, 0);
  EXPECT_EQ(built.defaults.axis, 0);
  EXPECT_EQ(built.defaults.solver, SolverKind::kRtn);
  EXPECT_EQ(built.defaults.iters, 7);
  EXPECT_EQ(built.defaults.round_zero, false);
  EXPECT_EQ(built.defaults.channel_wise, false);
  ASSERT_EQ(built.rules.size(), 2U);
  EXPECT_EQ(built.rules[0].pattern, "a[0-9]");
  EXPECT_EQ(built.rules[0].spec.group_size, 32);
  EXPECT_EQ(built.rules[1].spec.keep, true);
  EXPECT_EQ(built.skip, (std::vector<std::string>{"c", "[d]"}));
}

TEST_F(SpecOptionsTest, PutsTheCommandLineOverTheRecipe) {
  const std::string file = (directory_.path() / "recipe.json").string();
  test::put_file(file, R"({"bits": 3, "group_size": 32, "rules": [{"match": "x", "bits": 8}], "skip": ["y"]})");

  const Recipe built = recipe({"--recipe", file, "--bits", "2", "--rule", "z=bits:5", "--skip", "w"});

  EXPECT_EQ(built.defaults.width, CodeWidth::k2);
  EXPECT_EQ(built.defaults.group_size, 32);
  ASSERT_EQ(built.rules.size(), 2U);
  EXPECT_EQ(built.rules[0].pattern, "x");
  EXPECT_EQ(built.rules[1].pattern, "z");
  EXPECT_EQ(built.skip, (std::vector<std::string>{"y", "w"}));
}

TEST_F(SpecOptionsTest, NamesTheOptionOfABadValue) {
  expect_error(ErrorCode::kUsage, {"--bits", "\"7\"", "1.58"}, [&] { recipe({"--bits", "7"}); });
  expect_error(ErrorCode::kUsage, {"--group-size", "\"0\""}, [&] { recipe({"--group-size", "0"}); });
  expect_error(ErrorCode::kUsage, {"--group-size", "\"64x\""}, [&] { recipe({"--group-size", "64x"}); });
  EXPECT_THROW(recipe({"--axis", "2"}), CLI::ParseError);
  EXPECT_THROW(recipe({"--iters", "0"}), CLI::ParseError);
  EXPECT_THROW(recipe({"--round-zero", "maybe"}), CLI::ParseError);
}

TEST(MachineOptions, ReadsSizesAndModes) {
  MachineOptions options;
  options.memory = "512MiB";
  options.direct_io = "on";

  EXPECT_EQ(options.memory_bytes(), 512ULL << 20);
  EXPECT_EQ(options.read_mode(), ReadMode::kDirect);
  options.memory = "lots";
  expect_error(ErrorCode::kUsage, {"--memory", "\"lots\"", "512MiB"},
               [&] { static_cast<void>(options.memory_bytes()); });
}

TEST(MachineOptions, DefaultsToAtMostTwoGibibytes) {
  const MachineOptions options;

  EXPECT_GT(options.memory_bytes(), 0U);
  EXPECT_LE(options.memory_bytes(), 2ULL << 30);
  EXPECT_GE(options.thread_count(), 1);
}

TEST(MachineOptions, ChecksTheSolverAtOnce) {
  MachineOptions options;
  options.isa = "NO_SUCH_ISA";
  expect_error(ErrorCode::kUsage, {"NO_SUCH_ISA"}, [&] { static_cast<void>(options.solver_factory()); });
  options.backend = "reference";
  expect_error(ErrorCode::kUsage, {"--isa"}, [&] { static_cast<void>(options.solver_factory()); });
  options.isa.clear();
  EXPECT_EQ(options.solver_factory()()->name(), "reference");
}

TEST(FloatDtype, AcceptsThreeTypesInAnyCase) {
  EXPECT_EQ(float_dtype_from_name("bf16", "--dtype"), DType::kBF16);
  EXPECT_EQ(float_dtype_from_name("F32", "--dtype"), DType::kF32);
  expect_error(ErrorCode::kUsage, {"--dtype", "\"f64\""},
               [] { static_cast<void>(float_dtype_from_name("f64", "--dtype")); });
}

TEST(MaxShardSize, IsOneFileOrASize) {
  SpecOptions options;
  EXPECT_EQ(options.max_shard_bytes(), OutputLayout::kOneFile);
  options.max_shard_size = "5GB";
  EXPECT_EQ(options.max_shard_bytes(), 5'000'000'000U);
  options.max_shard_size = "2GiB";
  EXPECT_EQ(options.max_shard_bytes(), 2'147'483'648U);
  for (const char* wrong : {"0", "five", "-1GB"}) {
    options.max_shard_size = wrong;
    expect_error(ErrorCode::kUsage, {"--max-shard-size", wrong}, [&] { static_cast<void>(options.max_shard_bytes()); });
  }
}

}  // namespace
}  // namespace halfquad
