#include <algorithm>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "sharding/scan.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

constexpr std::int64_t kLarge = 3 << 20;  // elements: more than one block of every dtype

/// What every part finds, and how much of the source it reads.
struct Scanned {
  std::vector<std::vector<std::size_t>> found;
  std::vector<std::uint64_t> bytes;
};

Scanned scan_in_parts(const std::vector<test::TestTensor>& tensors, int parts, int threads = 2) {
  const test::TempDir temp;
  test::put_safetensors(temp.path() / "m.safetensors", tensors);
  const auto fs = make_posix_file_system();
  const Checkpoint checkpoint(*fs, temp.path() / "m.safetensors");
  std::vector<std::size_t> all(tensors.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  const NonfiniteScan scan(checkpoint, all);
  Scanned result;
  for (int part = 0; part < parts; ++part) {
    ProgressCounters progress;
    result.found.push_back(scan.find(*fs, {part, parts}, threads, ReadMode::kAuto, progress, StopFlag()));
    result.bytes.push_back(progress.bytes_read);
  }
  return result;
}

std::vector<std::size_t> scan(const std::vector<test::TestTensor>& tensors, int threads = 2) {
  return scan_in_parts(tensors, 1, threads).found[0];
}

test::TestTensor zeros(std::string name, DType dtype, std::int64_t count) {
  return {std::move(name), dtype, {count}, std::string(static_cast<std::size_t>(count * bytes_of(dtype)), '\0')};
}

TEST(FindNonfiniteTensors, FindsNothingInFiniteOnes) {
  EXPECT_THAT(scan({zeros("a", DType::kBF16, kLarge), zeros("b", DType::kF32, 5)}), testing::IsEmpty());
}

TEST(FindNonfiniteTensors, FindsTheVeryLastElementOfEveryDtype) {
  struct Case {
    DType dtype;
    std::string infinity;  // high bytes
  };
  for (const Case& c : {Case{DType::kBF16, "\x80\x7f"}, Case{DType::kF16, std::string("\x00\xfc", 2)},
                        Case{DType::kF32, "\x80\x7f"}, Case{DType::kF64, "\xf0\x7f"}}) {
    auto tensor = zeros("bad", c.dtype, kLarge);
    tensor.bytes.replace(tensor.bytes.size() - 2, 2, c.infinity);

    EXPECT_THAT(scan({zeros("good", c.dtype, 3), tensor, zeros("fine", c.dtype, 4)}), testing::ElementsAre(1))
        << name_of(c.dtype);
  }
}

TEST(FindNonfiniteTensors, NamesEachOnceInAscendingOrder) {
  auto bad = [](std::string name) {
    auto tensor = zeros(std::move(name), DType::kBF16, kLarge);
    tensor.bytes.replace(0, 2, "\xc0\x7f");
    tensor.bytes.replace(tensor.bytes.size() - 2, 2, "\xc0\xff");
    return tensor;
  };
  EXPECT_THAT(scan({bad("a"), zeros("b", DType::kBF16, 7), bad("c")}, 3), testing::ElementsAre(0, 2));
}

TEST(FindNonfiniteTensors, PartsAreEquallyLargeAndTogetherReadEveryByteOnce) {
  const std::vector<test::TestTensor> tensors{zeros("a", DType::kF32, 2 * kLarge), zeros("b", DType::kBF16, 9),
                                              zeros("c", DType::kF16, kLarge)};
  std::uint64_t total = 0;
  for (const auto& tensor : tensors) total += tensor.bytes.size();
  for (const int parts : {1, 2, 3, 7, 100}) {  // the last: more than there are blocks
    const std::vector<std::uint64_t> bytes = scan_in_parts(tensors, parts).bytes;

    EXPECT_EQ(std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0}), total) << parts;
    EXPECT_LE(*std::max_element(bytes.begin(), bytes.end()), total / static_cast<std::uint64_t>(parts) + (3 << 20));
  }
}

TEST(FindNonfiniteTensors, OnePartFindsAValueWhereverItLies) {
  for (const std::size_t at : {std::size_t{0}, std::size_t{3} << 20, (std::size_t{2} * kLarge) - 2}) {
    auto tensor = zeros("bad", DType::kBF16, kLarge);
    tensor.bytes.replace(at, 2, "\x80\x7f");
    std::vector<std::size_t> all;
    for (const auto& found : scan_in_parts({zeros("a", DType::kBF16, 7), tensor}, 3).found) {
      all.insert(all.end(), found.begin(), found.end());
    }
    EXPECT_THAT(all, testing::ElementsAre(1)) << at;
  }
}

TEST(FindNonfiniteTensors, LeavesIntegersAlone) {
  auto tensor = zeros("ids", DType::kI32, 2);
  tensor.bytes.assign(8, '\xff');
  EXPECT_THAT(scan({tensor}), testing::IsEmpty());
}

}  // namespace
}  // namespace halfquad
