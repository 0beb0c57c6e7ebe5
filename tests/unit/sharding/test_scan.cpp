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

std::vector<std::size_t> scan(const std::vector<test::TestTensor>& tensors, int threads = 2) {
  const test::TempDir temp;
  test::put_safetensors(temp.path() / "m.safetensors", tensors);
  const auto fs = make_posix_file_system();
  const Checkpoint checkpoint(*fs, temp.path() / "m.safetensors");
  std::vector<std::size_t> all(tensors.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  ProgressCounters progress;
  auto found = find_nonfinite_tensors(*fs, checkpoint, all, threads, ReadMode::kAuto, progress, StopFlag());
  return found;
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

TEST(FindNonfiniteTensors, LeavesIntegersAlone) {
  auto tensor = zeros("ids", DType::kI32, 2);
  tensor.bytes.assign(8, '\xff');
  EXPECT_THAT(scan({tensor}), testing::IsEmpty());
}

}  // namespace
}  // namespace halfquad
