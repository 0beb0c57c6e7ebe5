#include <cstdlib>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/features.h"

namespace halfquad {
namespace {

using testing::MatchesRegex;

constexpr bool kWithMpi = HALFQUAD_TEST_WITH_MPI;
constexpr bool kWithHdf5 = HALFQUAD_TEST_WITH_HDF5;
constexpr bool kWithCuda = HALFQUAD_TEST_WITH_CUDA;

TEST(Features, ComeInFixedOrder) {
  const std::vector<Feature> features = available_features();

  ASSERT_EQ(features.size(), 3U);
  EXPECT_EQ(features[0].name, "MPI");
  EXPECT_EQ(features[1].name, "HDF5");
  EXPECT_EQ(features[2].name, "CUDA");
}

TEST(Features, MpiTellsItsLibraryWithoutBeingStarted) {
  const Feature mpi = mpi_feature();

  EXPECT_EQ(mpi.available, kWithMpi);
  EXPECT_THAT(mpi.detail, kWithMpi ? MatchesRegex("[^,\n]*[0-9]+\\.[0-9]+[^,\n]*") : MatchesRegex("not in this build"));
}

TEST(Features, Hdf5TellsItsVersionAndKind) {
  const Feature hdf5 = available_features().at(1);

  EXPECT_EQ(hdf5.available, kWithHdf5);
  EXPECT_THAT(hdf5.detail, kWithHdf5 ? MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+, (parallel|serial)")
                                     : MatchesRegex("not in this build"));
}

TEST(Features, CudaWithoutDeviceIsAnAnswerAndNoError) {
  setenv("HALFQUAD_CUDA_MODULE", HALFQUAD_TEST_CUDA_MODULE, 1);
  const Feature cuda = cuda_feature();
  unsetenv("HALFQUAD_CUDA_MODULE");

  if (!kWithCuda) {
    EXPECT_FALSE(cuda.available);
    EXPECT_EQ(cuda.detail, "not in this build");
    return;
  }
  constexpr char kVersions[] = "runtime [0-9]+\\.[0-9]+, driver ([0-9]+\\.[0-9]+|none), ";
  EXPECT_THAT(cuda.detail, cuda.available ? MatchesRegex(kVersions + std::string("[1-9][0-9]* devices?"))
                                          : MatchesRegex(kVersions + std::string("no device|no driver")));
}

}  // namespace
}  // namespace halfquad
