#include <gtest/gtest.h>

#include "launcher/environment.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

TEST(Environment, ReadsNamesAndValues) {
  const char* const variables[] = {"A=1", "B=x=y", "C=", "no equals sign", nullptr};

  const Environment environment = read_environment(variables);

  EXPECT_EQ(environment, (Environment{{"A", "1"}, {"B", "x=y"}, {"C", ""}}));
  EXPECT_TRUE(read_environment(nullptr).empty());
}

TEST(StartedBy, KnowsEveryStarterOfMoreThanOneProcess) {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS"}) {
    const auto starter = started_by({{variable, "4"}});

    ASSERT_TRUE(starter.has_value()) << variable;
    EXPECT_EQ(starter->ranks, 4);
    EXPECT_EQ(starter->variable, variable);
  }
}

TEST(StartedBy, IsNothingForASingleProcess) {
  EXPECT_FALSE(started_by({}).has_value());
  EXPECT_FALSE(started_by({{"OMPI_COMM_WORLD_SIZE", "1"}, {"PMI_SIZE", "1"}}).has_value());
  EXPECT_FALSE(started_by({{"OMPI_COMM_WORLD_SIZE", "many"}}).has_value());
}

TEST(StartedBy, IsNothingForABatchScriptWhoseAllocationHasManyTasks) {
  const Environment batch = {
      {"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "16"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}};

  EXPECT_FALSE(started_by(batch).has_value());
}

TEST(StartedBy, KnowsSrunWithoutAnyMpi) {
  const Environment step = {{"SLURM_NTASKS", "2"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}};

  const auto starter = started_by(step);

  ASSERT_TRUE(starter.has_value());
  EXPECT_EQ(starter->name, "srun");
}

TEST(ConnectionHint, IsForTheFirstTaskOfAnSrunThatConnectsNone) {
  const Environment step = {{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "0"}};

  const auto hint = connection_hint(step);

  ASSERT_TRUE(hint.has_value());
  EXPECT_NE(hint->find("its 4 tasks"), std::string::npos) << *hint;
  EXPECT_NE(hint->find("srun --mpi=pmix"), std::string::npos) << *hint;
}

TEST(ConnectionHint, IsNotForOthers) {
  EXPECT_FALSE(connection_hint({}).has_value());
  EXPECT_FALSE(connection_hint({{"SLURM_STEP_NUM_TASKS", "1"}}).has_value());
  EXPECT_FALSE(connection_hint({{"OMPI_COMM_WORLD_SIZE", "4"}}).has_value());
  EXPECT_FALSE(connection_hint({{"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_PROCID", "1"}}).has_value());
  for (const char* variable : {"PMIX_NAMESPACE", "PMI_FD", "PMI_RANK"}) {
    EXPECT_FALSE(connection_hint({{"SLURM_STEP_NUM_TASKS", "4"}, {variable, "3"}}).has_value()) << variable;
  }
}

TEST(RequireAlone, RefusesOneOfSeveralProcessesAndNamesTheStarter) {
  EXPECT_NO_THROW(require_alone({}, "verify"));
  test::expect_error(ErrorCode::kUsage,
                     {"one of 4 processes", "mpirun", "PMI_SIZE", "halfquad verify", "start it once"}, [] {
                       require_alone({{"PMI_SIZE", "4"}}, "verify");
                     });
}

TEST(JoinJob, IsASingleProcessWithoutAStarter) {
  const auto communicator = join_job({});

  EXPECT_EQ(communicator->size(), 1);
  EXPECT_EQ(communicator->rank(), 0);
}

}  // namespace
}  // namespace halfquad
