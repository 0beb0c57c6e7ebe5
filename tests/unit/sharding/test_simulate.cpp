#include <gtest/gtest.h>

#include "preset_plan.h"
#include "sharding/simulate.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

/// Disks without limit, one core a rank: nothing but the hand-out can lose time.
ClusterRates solving_alone() {
  return {.read_bytes_per_s_per_node = 0,
          .write_bytes_per_s_per_node = 0,
          .weights_per_s_per_core = 390e6,
          .cores_per_rank = 1};
}

const test::PresetPlan& llama_8b() {
  static const test::PresetPlan plan({.preset = "llama-8b"});
  return plan;
}

Simulation run(const test::PresetPlan& model, const SimulationOptions& options) {
  return simulate(model.plan, model.weights, options);
}

TEST(Simulate, OneRankTakesTheSumOfItsTiles) {
  SimulationOptions options{.rates = solving_alone(), .message_seconds = 0, .answer_seconds = 0};
  const double sum = static_cast<double>(llama_8b().plan.weights) / 390e6;

  EXPECT_NEAR(run(llama_8b(), options).seconds, sum, 1e-9 * sum);
  options.rates.read_bytes_per_s_per_node = 1e8;
  const double reading = static_cast<double>(llama_8b().plan.source_bytes) / 1e8;
  const double seconds = run(llama_8b(), options).seconds;
  EXPECT_GE(seconds, reading * (1 - 1e-9));
  EXPECT_LE(seconds, reading + 0.1) << "the last tile's solving alone is not hidden";
}

TEST(Simulate, IsNeverBetterThanTheBound) {
  for (const int ranks : {1, 3, 16, 100, 1000}) {
    for (const Schedule schedule : {Schedule::kDynamic, Schedule::kStatic}) {
      for (const double file_system : {0.0, 20e9}) {
        SimulationOptions options{
            .topology = {ranks, (ranks + 7) / 8}, .schedule = schedule, .stragglers = {.fraction = 0.1, .slowdown = 3}};
        options.rates.file_system_bytes_per_s = file_system;
        const Simulation result = run(llama_8b(), options);
        EXPECT_LE(result.efficiency(), 1 + 1e-9) << ranks;
        EXPECT_GT(result.seconds, 0);
      }
    }
  }
}

TEST(Simulate, HelpingBeatsStaticSharesUnderStragglers) {
  SimulationOptions options{
      .topology = {32, 4}, .rates = solving_alone(), .stragglers = {.fraction = 0.05, .slowdown = 2}};
  const Simulation dynamic = run(llama_8b(), options);
  options.schedule = Schedule::kStatic;
  const Simulation fixed = run(llama_8b(), options);

  EXPECT_LT(dynamic.seconds, 0.7 * fixed.seconds);
  EXPECT_LT(fixed.efficiency(), 0.55) << "a rank at half speed takes twice as long for its share";
}

TEST(Simulate, Keeps256RanksOfA70BModelBusy) {
  const test::PresetPlan model({.preset = "llama-70b"});
  SimulationOptions options{.topology = {256, 32}, .rates = solving_alone()};
  EXPECT_GE(run(model, options).efficiency(), 0.99);
  for (const double fraction : {0.02, 0.1}) {
    options.stragglers = {.fraction = fraction, .slowdown = 2};
    EXPECT_GE(run(model, options).efficiency(), 0.95) << fraction;
  }
}

TEST(Simulate, WhatASlowRankHoldsNobodyElseCanSolve) {
  SimulationOptions options{
      .topology = {64, 8}, .rates = solving_alone(), .stragglers = {.fraction = 0.02, .slowdown = 2}};
  options.items_held = 2;
  const double late = run(llama_8b(), options).efficiency();
  options.items_held = 10;
  EXPECT_LT(run(llama_8b(), options).efficiency(), late - 0.05);
}

TEST(Simulate, TheSeedDecidesEverything) {
  SimulationOptions options{
      .topology = {50, 7}, .rates = solving_alone(), .stragglers = {.fraction = 0.1, .slowdown = 2.7}};
  options.rates.read_bytes_per_s_per_node = 8e9;
  const double seconds = run(llama_8b(), options).seconds;
  EXPECT_EQ(run(llama_8b(), options).seconds, seconds);
  int others = 0;
  for (options.seed = 2; options.seed <= 5; ++options.seed)
    others += run(llama_8b(), options).seconds != seconds ? 1 : 0;
  EXPECT_GT(others, 0);
}

TEST(Simulate, CountsSlowRanksWithWhatTheyCanDo) {
  const SimulationOptions options{
      .topology = {10, 1}, .rates = solving_alone(), .stragglers = {.fraction = 0.11, .slowdown = 2}};
  const double whole = static_cast<double>(llama_8b().plan.weights) / 390e6;
  EXPECT_NEAR(run(llama_8b(), options).bound.seconds, whole / 9, 1e-9 * whole) << "two of ten, rounded up, half fast";
}

TEST(Simulate, ASlowFileSystemBindsAllNodes) {
  SimulationOptions options{.topology = {64, 8}};
  options.rates.file_system_bytes_per_s = 1e9;
  const Simulation result = run(llama_8b(), options);
  EXPECT_EQ(result.bound.name, "the file system");
  EXPECT_GT(result.efficiency(), 0.95);
}

TEST(Simulate, RefusesStragglersThatCannotBe) {
  const auto refuse = [](Stragglers stragglers) {
    test::expect_error(ErrorCode::kUsage, {"stragglers", "0.02:2"},
                       [&] { (void)run(llama_8b(), {.stragglers = stragglers}); });
  };
  refuse({.fraction = 1.1, .slowdown = 2});
  refuse({.fraction = -0.1, .slowdown = 2});
  refuse({.fraction = 0.1, .slowdown = 0.5});
}

}  // namespace
}  // namespace halfquad
