#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/device_loader.h"
#include "runtime/error.h"
#include "tests/cuda/module_under_test.h"
#include "tests/cuda/tile_case.h"

namespace halfquad {
namespace {

using test::TileCase;
using test::TileSpec;

constexpr std::uint64_t kAmple = 64 << 20;

class CudaSolver : public testing::Test {
 protected:
  void SetUp() override {
    const LoadedDevices loaded = load_device_module(test::module_under_test());
    ASSERT_NE(loaded.module, nullptr) << loaded.detail;
    module_ = loaded.module;
    if (module_->devices().empty()) GTEST_SKIP() << "no CUDA device here, real or emulated";
  }

  void expect_reference_bytes(DeviceSolver& solver, TileCase& tile) {
    tile.spoil();
    const std::vector<DeviceResult> results = solver.solve({&tile.tile(), 1});
    ASSERT_EQ(results.size(), 1U);
    EXPECT_EQ(tile.difference(results[0]), "");
  }

  DeviceModule* module_ = nullptr;
  std::mt19937_64 random_{static_cast<std::uint64_t>(testing::UnitTest::GetInstance()->random_seed())};
};

TEST_F(CudaSolver, GivesTheBytesOfTheReferenceForAllWidthsAxesAndGroupSizes) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const TileSpec& spec : test::grid_of_specs(random_)) {
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);
    expect_reference_bytes(*solver, tile);
  }
}

TEST_F(CudaSolver, SearchesByAlsAsTheReferenceDoesForAllWidthsAndGroupSizes) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const TileSpec& spec : test::grid_of_als_specs(random_)) {
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);
    expect_reference_bytes(*solver, tile);
  }
}

TEST_F(CudaSolver, SearchesWholeZerosAsTheReferenceDoesForAllWidthsAndGroupSizes) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const TileSpec& spec : test::grid_of_whole_specs(random_)) {
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);
    expect_reference_bytes(*solver, tile);
  }
}

TEST_F(CudaSolver, SearchesScalesOfFloatingPointGridsAsTheReferenceDoes) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const TileSpec& spec : test::float_specs(random_)) {
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);
    expect_reference_bytes(*solver, tile);
  }
}

TEST_F(CudaSolver, DecodesAllCodesAndScalesAsTheHostDoes) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const TileSpec& spec : test::grid_of_coded_specs(random_)) {
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);
    expect_reference_bytes(*solver, tile);
  }
}

TEST_F(CudaSolver, TellsOfCodesThatAreNotNumbers) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const DType dtype : {DType::kF8E4M3, DType::kF8E5M2}) {
    for (const std::int64_t group_size : {64, 100}) {
      TileSpec spec;
      spec.spec.group_size = group_size;
      spec.rows = 40;
      spec.cols = group_size;
      spec.coded = test::CodedSpec{.dtype = dtype};
      SCOPED_TRACE(describe(spec));
      TileCase tile(spec, random_);

      tile.set_nan(static_cast<std::int64_t>(random_() % 4000) % (spec.rows * spec.cols));

      EXPECT_EQ(tile.outcome(), DeviceOutcome::kNonfinite);
      expect_reference_bytes(*solver, tile);
    }
  }
}

TEST_F(CudaSolver, GivesTheBytesOfTheReferenceForAllKindsOfWeights) {
  const auto solver = module_->make_solver(0, kAmple);

  for (int kind = 0; kind < test::kWeightsKinds; ++kind) {
    for (const int axis : {1, 0}) {
      for (const std::int64_t group_size : {32, 64, 100, 128}) {
        TileSpec spec;
        spec.kind = static_cast<test::Weights>(kind);
        spec.stored = DType::kF32;  // else few of the huge could be stored
        spec.source = group_size == 128 ? DType::kBF16 : DType::kF32;
        spec.spec.width = group_size == 32 ? CodeWidth::k2 : CodeWidth::k4;
        spec.spec.axis = axis;
        spec.spec.group_size = group_size;
        spec.rows = axis == 1 ? 80 : group_size;
        spec.cols = axis == 1 ? group_size : 80;
        SCOPED_TRACE(describe(spec));
        TileCase tile(spec, random_);
        expect_reference_bytes(*solver, tile);
        if (axis == 0) continue;

        spec.form = DeviceTile::StoredForm{group_size != 64, 8};
        spec.unpacked = group_size == 128;
        TileCase stored(spec, random_);
        expect_reference_bytes(*solver, stored);

        spec.spec.solver = SolverKind::kAls;
        spec.weighed = group_size != 32;
        spec.record = RecordErrors::kNo;
        SCOPED_TRACE(describe(spec));
        TileCase searched(spec, random_);
        expect_reference_bytes(*solver, searched);

        for (const ZeroKind zeros : {ZeroKind::kInteger, ZeroKind::kSymmetric}) {
          for (const Importance importance : {Importance::kWeights, Importance::kNone}) {
            spec.spec.zeros = zeros;
            spec.spec.importance = importance;
            spec.weighed = importance != Importance::kNone;
            SCOPED_TRACE(describe(spec));
            TileCase whole(spec, random_);
            expect_reference_bytes(*solver, whole);
          }
        }
      }
    }
  }
}

// Half a code step is below the threshold of the shrinkage, what clamping leaves is above it.
TEST_F(CudaSolver, ShrinksWhatOnlyClampingTakesBeyondTheThreshold) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const CodeWidth width : {CodeWidth::k1, CodeWidth::k2, CodeWidth::k4}) {
    for (const double step : {0.2, 0.24, 0.28}) {
      for (const int axis : {1, 0}) {
        TileSpec spec;
        spec.spec.width = width;
        spec.spec.axis = axis;
        spec.spec.round_zero = true;
        spec.source = DType::kF32;
        spec.scale = step * qmax(width) / 4.5;  // the range of 64 Gaussian weights is about 4.5 sigma
        spec.rows = spec.cols = 64;
        SCOPED_TRACE(describe(spec));
        TileCase tile(spec, random_);
        expect_reference_bytes(*solver, tile);
      }
    }
  }
}

TEST_F(CudaSolver, GivesTheSameBytesInLittleMemory) {
  for (int i = 0; i < 12; ++i) {
    const TileSpec spec = test::random_spec(random_);
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);

    // From so little that a packed row or column does not fit to so much that nothing is cut.
    int solved = 0;
    for (std::uint64_t bytes = 8 << 10; bytes <= (1 << 20); bytes = bytes * 3 / 2) {
      try {
        expect_reference_bytes(*module_->make_solver(0, bytes), tile);
        ++solved;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory) << error.what();
        EXPECT_EQ(solved, 0) << "less memory was enough";
      }
    }
    EXPECT_GT(solved, 0);
  }
}

TEST_F(CudaSolver, SolvesTilesOfManyKindsTogether) {
  for (const std::uint64_t bytes : {kAmple, std::uint64_t{1} << 20}) {
    const auto solver = module_->make_solver(0, bytes);
    std::vector<std::unique_ptr<TileCase>> cases;
    std::vector<DeviceTile> tiles;
    for (int i = 0; i < 12; ++i) {
      const TileSpec spec = test::random_spec(random_);
      for (int copy = 0; copy < 2; ++copy) cases.push_back(std::make_unique<TileCase>(spec, random_));
    }
    for (const auto& each : cases) tiles.push_back(each->tile());

    const std::vector<DeviceResult> results = solver->solve(tiles);

    ASSERT_EQ(results.size(), cases.size());
    for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(cases[i]->difference(results[i]), "") << "tile " << i;
  }
}

TEST_F(CudaSolver, TellsOfWhatIsNotFinite) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const int axis : {1, 0}) {
    for (const std::int64_t group_size : {64, 100}) {
      for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity()}) {
        TileSpec spec;
        spec.spec.axis = axis;
        spec.spec.group_size = group_size;
        spec.rows = axis == 1 ? 40 : group_size;
        spec.cols = axis == 1 ? group_size : 40;
        SCOPED_TRACE(describe(spec) + " with " + std::to_string(value));
        TileCase tile(spec, random_);
        const auto at = static_cast<std::int64_t>(random_() % 4000) % (spec.rows * spec.cols);
        tile.set_weight(at, value);

        EXPECT_EQ(tile.outcome(), DeviceOutcome::kNonfinite);
        expect_reference_bytes(*solver, tile);
        if (axis == 0) continue;

        spec.spec.solver = SolverKind::kAls;
        spec.record = RecordErrors::kNo;
        spec.form = DeviceTile::StoredForm{};
        TileCase searched(spec, random_);
        searched.set_weight(at, value);
        EXPECT_EQ(searched.outcome(), DeviceOutcome::kNonfinite);
        expect_reference_bytes(*solver, searched);

        for (const Importance importance : {Importance::kWeights, Importance::kNone}) {
          spec.spec.zeros = ZeroKind::kInteger;
          spec.spec.importance = importance;
          TileCase whole(spec, random_);
          whole.set_weight(at, value);
          EXPECT_EQ(whole.outcome(), DeviceOutcome::kNonfinite);
          expect_reference_bytes(*solver, whole);
        }
      }
    }
  }
}

TEST_F(CudaSolver, TellsOfWhatIsNotFiniteOnFloatingPointGrids) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const FloatGrid grid : {FloatGrid::kNvfp4, FloatGrid::kMxfp4}) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      TileSpec spec;
      spec.spec.grid = grid;
      spec.spec.group_size = grid == FloatGrid::kNvfp4 ? 16 : 32;
      spec.spec.zeros = ZeroKind::kSymmetric;
      spec.spec.solver = SolverKind::kAls;
      spec.rows = 40;
      spec.cols = 64;
      spec.stored = DType::kF32;
      spec.record = RecordErrors::kNo;
      spec.unpacked = true;
      TileCase tile(spec, random_);

      tile.set_weight(static_cast<std::int64_t>(random_() % 2560), value);

      EXPECT_EQ(tile.outcome(), DeviceOutcome::kNonfinite);
      expect_reference_bytes(*solver, tile);
    }
  }
}

TEST_F(CudaSolver, TellsOfRangesBeyondFloats) {
  const auto solver = module_->make_solver(0, kAmple);
  TileSpec spec;
  spec.rows = 40;
  spec.cols = 64;
  TileCase tile(spec, random_);

  tile.set_weight(70, 3e38F);
  tile.set_weight(71, -3e38F);

  EXPECT_EQ(tile.outcome(), DeviceOutcome::kNonfinite);
  expect_reference_bytes(*solver, tile);
}

// What covers 0 as well, or as far to the other side of it, may be beyond where the range of the weights is not.
TEST_F(CudaSolver, TellsOfRangesOfWholeZerosBeyondFloats) {
  const auto solver = module_->make_solver(0, kAmple);
  for (const ZeroKind zeros : {ZeroKind::kInteger, ZeroKind::kSymmetric}) {
    for (const Importance importance : {Importance::kWeights, Importance::kNone}) {
      for (const std::int64_t group_size : {64, 100}) {
        TileSpec spec;
        spec.spec.solver = SolverKind::kAls;
        spec.spec.zeros = zeros;
        spec.spec.importance = importance;
        spec.spec.group_size = spec.cols = group_size;
        spec.stored = DType::kF32;
        spec.record = RecordErrors::kNo;
        spec.rows = 40;
        SCOPED_TRACE(describe(spec));
        TileCase tile(spec, random_);

        tile.set_weight(70, 3e38F);

        EXPECT_EQ(tile.outcome(), zeros == ZeroKind::kInteger ? DeviceOutcome::kDone : DeviceOutcome::kNonfinite);
        expect_reference_bytes(*solver, tile);
      }
    }
  }
}

TEST_F(CudaSolver, CountsErrorsBeyondFloatsAsTheReferenceDoes) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const int axis : {1, 0}) {
    for (const std::int64_t group_size : {64, 100}) {
      TileSpec spec;
      spec.spec.axis = axis;
      spec.spec.group_size = group_size;
      spec.spec.width = CodeWidth::k2;
      spec.source = spec.stored = DType::kF32;
      spec.scale = 4e37;  // the range of a group is below the largest float, the sum of its errors is not
      spec.rows = axis == 1 ? 40 : group_size;
      spec.cols = axis == 1 ? group_size : 40;
      SCOPED_TRACE(describe(spec));
      TileCase tile(spec, random_);

      EXPECT_EQ(tile.outcome(), DeviceOutcome::kDone);
      expect_reference_bytes(*solver, tile);
    }
  }
}

TEST_F(CudaSolver, TellsOfScalesThatCannotBeStored) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const std::int64_t group_size : {64, 100}) {
    TileSpec spec;
    spec.spec.group_size = group_size;
    spec.rows = 40;
    spec.cols = group_size;
    for (const SolverKind kind : {SolverKind::kHqq, SolverKind::kAls}) {
      spec.spec.solver = kind;
      if (kind == SolverKind::kAls) spec.form = DeviceTile::StoredForm{true, 8};
      spec.record = RecordErrors::kNo;
      for (const ZeroKind zeros : {ZeroKind::kFloat, ZeroKind::kInteger}) {
        spec.spec.zeros = zeros;
        TileCase tile(spec, random_);
        tile.set_weight(70, 3e6F);

        EXPECT_EQ(tile.outcome(), DeviceOutcome::kUnstorable);
        expect_reference_bytes(*solver, tile);
      }
    }
  }
}

TEST_F(CudaSolver, TakesASingleColumnForConsecutiveWeights) {
  const auto solver = module_->make_solver(0, kAmple);

  for (const std::int64_t rows : {64, 1000}) {
    TileSpec spec;
    spec.spec.axis = 0;
    spec.spec.group_size = 0;
    spec.rows = rows;
    spec.cols = 1;
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);
    expect_reference_bytes(*solver, tile);
  }
}

TEST_F(CudaSolver, SolvesNothing) { EXPECT_TRUE(module_->make_solver(0, kAmple)->solve({}).empty()); }

TEST_F(CudaSolver, TellsItsDevice) {
  const std::vector<DeviceInfo> devices = module_->devices();
  const int last = devices.back().index;

  EXPECT_EQ(module_->make_solver(last, kAmple)->name(), "cuda:" + std::to_string(last) + " " + devices.back().name);
  EXPECT_FALSE(devices[0].bus_id.empty());
  EXPECT_GT(devices[0].memory_bytes, 0U);
  EXPECT_GT(devices[0].multiprocessors, 0);
}

TEST_F(CudaSolver, RefusesDevicesThatAreNotThereWithAnErrorOfTheProgram) {
  try {
    (void)module_->make_solver(1000, kAmple);
    FAIL() << "there is no such device";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDevice);
    EXPECT_NE(std::string(error.what()).find("invalid device ordinal"), std::string::npos) << error.what();
  }
}

TEST_F(CudaSolver, MakesDoWithHalfTheMemoryAndLess) {
  const std::uint64_t all = module_->devices()[0].memory_bytes;
  TileSpec spec;
  spec.rows = 40;
  spec.cols = 64;
  TileCase tile(spec, random_);

  expect_reference_bytes(*module_->make_solver(0, all + all / 2), tile);
}

TEST_F(CudaSolver, GivesTheSameBytesFromAndToLockedPages) {
  const auto solver = module_->make_solver(0, 1 << 20);
  for (int i = 0; i < 6; ++i) {
    const TileSpec spec = test::random_spec(random_);
    SCOPED_TRACE(describe(spec));
    TileCase tile(spec, random_);
    ASSERT_TRUE(module_->lock_pages(0, tile.weights()));
    ASSERT_TRUE(module_->lock_pages(0, tile.codes()));

    expect_reference_bytes(*solver, tile);

    module_->unlock_pages(0, tile.weights());
    module_->unlock_pages(0, tile.codes());
  }
}

TEST_F(CudaSolver, LocksPagesOnce) {
  std::vector<std::byte> memory(1 << 16);

  EXPECT_TRUE(module_->lock_pages(0, memory));
  EXPECT_FALSE(module_->lock_pages(0, memory)) << "it is locked already";
  module_->unlock_pages(0, memory);
  EXPECT_TRUE(module_->lock_pages(0, memory));
  module_->unlock_pages(0, memory);
}

}  // namespace
}  // namespace halfquad
