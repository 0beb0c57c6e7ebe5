#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/aligned_scratch.h"
#include "io/posix_file_system.h"
#include "sharding/open_checkpoint.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kStart = 300;  // of the tensor in the file

/// Reads ranges of a file and counts the requests.
class GatherRanges : public ::testing::Test {
 protected:
  GatherRanges() {
    test::put_file(temp_.path() / "weights", content_);
    file_ = watched_.open_read(temp_.path() / "weights", ReadMode::kBuffered);
  }

  /// The number of requests; also checks the bytes.
  std::size_t requests(const std::vector<ByteRange>& ranges) {
    std::string expected;
    for (const ByteRange& range : ranges) expected += content_.substr(kStart + range.offset, range.bytes);
    std::string found(expected.size(), '?');
    const std::uint64_t before = log_->calls();
    gather_ranges(*file_, kStart, ranges, scratch_.bytes(), reinterpret_cast<std::byte*>(found.data()));
    EXPECT_TRUE(found == expected);
    return log_->calls() - before;
  }
  [[nodiscard]] static std::vector<ByteRange> lines(std::uint64_t count, std::uint64_t bytes, std::uint64_t stride) {
    std::vector<ByteRange> ranges;
    for (std::uint64_t i = 0; i < count; ++i) ranges.push_back({40 + i * stride, bytes});
    return ranges;
  }

  std::string content_ = test::random_tensor("weights", DType::kBF16, {6 << 20}).bytes;
  test::TempDir temp_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  std::shared_ptr<test::FaultPlan> log_ = std::make_shared<test::FaultPlan>();
  test::FaultyFileSystem watched_{*fs_, log_};
  std::unique_ptr<ReadFile> file_;
  AlignedScratch scratch_{OpenCheckpoint::kScratchBytes};
};

TEST_F(GatherRanges, LinesNearEachOtherAreOneRequest) {
  EXPECT_EQ(requests(lines(1000, 512, 2560)), 1U);
  EXPECT_EQ(requests(lines(1000, 1, 1)), 1U);
  EXPECT_EQ(requests(lines(200, 100, 100 + (16 << 10))), 1U);
  EXPECT_EQ(requests({{0, 10}, {10, 0}, {10, 5}}), 1U);
}

TEST_F(GatherRanges, NoRequestIsLongerThanTheScratch) {
  EXPECT_EQ(requests(lines(4000, 512, 2560)), 3U);  // 10 MB
  EXPECT_EQ(requests({{7, 9 << 20}}), 3U);
  EXPECT_EQ(requests({{7, 5 << 20}, {8 << 20, 100}}), 3U);
}

TEST_F(GatherRanges, WhatLiesFarApartIsNotReadAlong) {
  EXPECT_EQ(requests(lines(50, 512, 100'000)), 50U);
  EXPECT_EQ(requests(lines(50, 100, 100 + (16 << 10) + 1)), 50U);
}

TEST_F(GatherRanges, RangesMayComeInAnyOrder) {
  EXPECT_EQ(requests({{5000, 100}, {200, 100}, {300, 50}, {250, 100}}), 3U);
  EXPECT_EQ(requests({}), 0U);
}

}  // namespace
}  // namespace halfquad
