#include <gtest/gtest.h>

#include "launcher/environment.h"

namespace halfquad {
namespace {

TEST(Environment, ReadsNamesAndValues) {
  const char* const variables[] = {"A=1", "B=x=y", "C=", "no equals sign", nullptr};

  const Environment environment = read_environment(variables);

  EXPECT_EQ(environment, (Environment{{"A", "1"}, {"B", "x=y"}, {"C", ""}}));
  EXPECT_TRUE(read_environment(nullptr).empty());
}

TEST(SeveralRanks, RefusesEveryStarterOfMoreThanOneProcess) {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS"}) {
    const auto reason = several_ranks({{variable, "4"}});

    ASSERT_TRUE(reason.has_value()) << variable;
    EXPECT_NE(reason->find("one of 4 processes"), std::string::npos) << *reason;
    EXPECT_NE(reason->find(variable), std::string::npos) << *reason;
    EXPECT_NE(reason->find("start it once"), std::string::npos) << *reason;
  }
}

TEST(SeveralRanks, AllowsASingleProcess) {
  EXPECT_FALSE(several_ranks({}).has_value());
  EXPECT_FALSE(several_ranks({{"OMPI_COMM_WORLD_SIZE", "1"}, {"PMI_SIZE", "1"}}).has_value());
  EXPECT_FALSE(several_ranks({{"OMPI_COMM_WORLD_SIZE", "many"}}).has_value());
}

TEST(SeveralRanks, AllowsABatchScriptWhoseAllocationHasManyTasks) {
  const Environment batch = {
      {"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "16"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}};

  EXPECT_FALSE(several_ranks(batch).has_value());
}

TEST(SeveralRanks, RefusesSrunWithoutAnyMpi) {
  const Environment step = {{"SLURM_NTASKS", "2"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}};

  const auto reason = several_ranks(step);

  ASSERT_TRUE(reason.has_value());
  EXPECT_NE(reason->find("srun"), std::string::npos) << *reason;
}

}  // namespace
}  // namespace halfquad
