#include <cstring>
#include <memory>
#include <sched.h>
#include <thread>

#include <gtest/gtest.h>

#include "runtime/machine.h"

namespace halfquad {
namespace {

TEST(UsableCores, RespectsTheAffinityMask) {
  int cores = 0;
  // A thread of its own, so that the mask ends with it.
  std::thread pinned([&] {
    cpu_set_t set;
    ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    std::size_t cpu = 0;
    while (!CPU_ISSET(cpu, &set)) ++cpu;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    ASSERT_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
    cores = usable_cores();
  });
  pinned.join();

  EXPECT_EQ(cores, 1);
}

TEST(UsableCores, LieBetweenOneAndTheMachines) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), static_cast<int>(std::thread::hardware_concurrency()));
}

TEST(AvailableMemory, IsPlausible) {
  EXPECT_GT(available_memory_bytes(), 1ULL << 20U);
  EXPECT_LT(available_memory_bytes(), 1ULL << 50U);
}

TEST(PeakResident, GrowsWithTouchedMemoryAndStays) {
  constexpr std::size_t kBytes = 64U << 20U;
  const std::uint64_t before = peak_resident_bytes();
  {
    const auto block = std::make_unique_for_overwrite<char[]>(kBytes);
    std::memset(block.get(), 1, kBytes);
    EXPECT_EQ(*static_cast<volatile char*>(block.get() + kBytes - 1), 1);  // keeps the writes
  }

  EXPECT_GE(peak_resident_bytes(), before + kBytes / 2);
}

TEST(CpuModel, HasANameOnOneLine) {
  const std::string model = cpu_model();

  EXPECT_FALSE(model.empty());
  EXPECT_EQ(model.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace halfquad
