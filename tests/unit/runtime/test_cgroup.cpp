#include <map>

#include <gtest/gtest.h>

#include "runtime/cgroup.h"

namespace halfquad {
namespace {

constexpr std::string_view kHybridGroups =
    "4:memory:/job/step\n"
    "1:cpu,cpuacct:/slice\n"
    "0::/unified.slice\n";

constexpr std::string_view kHybridMounts =
    "23 1 0:20 / / rw - ext4 /dev/vda rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

constexpr std::string_view kV2Mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";

// A machine made of the files named.
TextReader machine_of(std::map<std::string, std::string> files) {
  return [files = std::move(files)](const std::string& path) -> std::optional<std::string> {
    const auto found = files.find(path);
    return found == files.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(CgroupPath, FindsEveryHierarchy) {
  EXPECT_EQ(cgroup_path(kHybridGroups, "memory"), "/job/step");
  EXPECT_EQ(cgroup_path(kHybridGroups, "cpuacct"), "/slice");
  EXPECT_EQ(cgroup_path(kHybridGroups, ""), "/unified.slice");
  EXPECT_EQ(cgroup_path(kHybridGroups, "pids"), std::nullopt);
  EXPECT_EQ(cgroup_path("0::/a:b", ""), "/a:b");
  EXPECT_EQ(cgroup_path("garbage", "cpu"), std::nullopt);
}

TEST(CgroupPath, DoesNotTakeANamedHierarchyForAController) {
  EXPECT_EQ(cgroup_path("9:name=systemd:/x\n", ""), std::nullopt);
  EXPECT_EQ(cgroup_path("3:cpuset:/x\n", "cpu"), std::nullopt);
}

TEST(CgroupMount, FindsTheMountOfAController) {
  EXPECT_EQ(cgroup_mount(kHybridMounts, "cpu")->point, "/sys/fs/cgroup/cpu");
  EXPECT_EQ(cgroup_mount(kHybridMounts, "memory")->point, "/sys/fs/cgroup/memory");
  EXPECT_EQ(cgroup_mount(kHybridMounts, "")->point, "/sys/fs/cgroup/unified");
  EXPECT_EQ(cgroup_mount(kHybridMounts, "memory")->root, "/");
  EXPECT_FALSE(cgroup_mount(kHybridMounts, "pids"));
  EXPECT_FALSE(cgroup_mount("cut short\n", ""));
}

TEST(CgroupFolders, ClimbsToTheMount) {
  EXPECT_EQ(cgroup_folders({"/", "/cg"}, "/a/b"), (std::vector<std::string>{"/cg/a/b", "/cg/a", "/cg"}));
  EXPECT_EQ(cgroup_folders({"/", "/cg"}, "/"), (std::vector<std::string>{"/cg"}));
}

TEST(CgroupFolders, CountsFromTheMountsRoot) {
  EXPECT_EQ(cgroup_folders({"/docker/x", "/cg"}, "/docker/x/job"), (std::vector<std::string>{"/cg/job", "/cg"}));
  EXPECT_EQ(cgroup_folders({"/docker/x", "/cg"}, "/docker/xy"), (std::vector<std::string>{"/cg"}));
  EXPECT_EQ(cgroup_folders({"/", "/cg"}, "/../other"), (std::vector<std::string>{"/cg"}));
}

TEST(CpuQuota, ParsesBothVersions) {
  EXPECT_DOUBLE_EQ(*parse_cpu_max("150000 100000\n"), 1.5);
  EXPECT_FALSE(parse_cpu_max("max 100000\n"));
  EXPECT_FALSE(parse_cpu_max(""));
  EXPECT_FALSE(parse_cpu_max("100000"));
  EXPECT_DOUBLE_EQ(*parse_cfs_quota("50000\n", "100000\n"), 0.5);
  EXPECT_FALSE(parse_cfs_quota("-1\n", "100000\n"));
  EXPECT_FALSE(parse_cfs_quota("100000", "0"));
}

TEST(ByteCount, IsNothingForMax) {
  EXPECT_EQ(parse_byte_count("4096\n"), 4096U);
  EXPECT_EQ(parse_byte_count("max\n"), std::nullopt);
  EXPECT_EQ(parse_byte_count("12x"), std::nullopt);
  EXPECT_EQ(parse_byte_count("99999999999999999999"), std::nullopt);
}

TEST(Field, ReadsTheNumberBehindAKey) {
  constexpr std::string_view kText =
      "MemTotal:  10 kB\nMemAvailableX: 3 kB\nMemAvailable:   1234 kB\ninactive_file 42\n";
  EXPECT_EQ(parse_field(kText, "MemAvailable:"), 1234U);
  EXPECT_EQ(parse_field(kText, "inactive_file"), 42U);
  EXPECT_EQ(parse_field("inactive_file_x 1\ninactive_file 2", "inactive_file"), 2U);
  EXPECT_EQ(parse_field(kText, "Active:"), std::nullopt);
  EXPECT_EQ(parse_field("MemAvailable:", "MemAvailable:"), std::nullopt);
}

TEST(CgroupLimits, TakesTheTightestAncestorInV2) {
  const CgroupLimits limits = read_cgroup_limits(machine_of({
      {"/proc/self/cgroup", "0::/user/job\n"},
      {"/proc/self/mountinfo", std::string(kV2Mounts)},
      {"/sys/fs/cgroup/user/job/cpu.max", "max 100000\n"},
      {"/sys/fs/cgroup/user/cpu.max", "350000 100000\n"},
      {"/sys/fs/cgroup/user/job/memory.max", "8000\n"},
      {"/sys/fs/cgroup/user/job/memory.current", "1000\n"},
      {"/sys/fs/cgroup/user/memory.max", "max\n"},
      {"/sys/fs/cgroup/user/memory.high", "6000\n"},
      {"/sys/fs/cgroup/user/memory.current", "3000\n"},
      {"/sys/fs/cgroup/user/memory.stat", "anon 500\ninactive_file 2500\n"},
  }));

  EXPECT_DOUBLE_EQ(*limits.cores, 3.5);
  EXPECT_EQ(limits.free_bytes, 5500U) << "page cache of 2500 counts as free";
}

TEST(CgroupLimits, ReadsBothHierarchiesOfV1) {
  const CgroupLimits limits = read_cgroup_limits(machine_of({
      {"/proc/self/cgroup", std::string(kHybridGroups)},
      {"/proc/self/mountinfo", std::string(kHybridMounts)},
      {"/sys/fs/cgroup/cpu/slice/cpu.cfs_quota_us", "200000\n"},
      {"/sys/fs/cgroup/cpu/slice/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
      {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4096\n"},
      {"/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1000\n"},
      {"/sys/fs/cgroup/memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
      {"/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n"},
  }));

  EXPECT_DOUBLE_EQ(*limits.cores, 2.0);
  EXPECT_EQ(limits.free_bytes, 4096U - 900U);
}

TEST(CgroupLimits, AGroupAboveItsLimitHasNothingFree) {
  const CgroupLimits limits = read_cgroup_limits(machine_of({
      {"/proc/self/cgroup", "0::/\n"},
      {"/proc/self/mountinfo", std::string(kV2Mounts)},
      {"/sys/fs/cgroup/memory.max", "1000\n"},
      {"/sys/fs/cgroup/memory.current", "1500\n"},
  }));

  EXPECT_EQ(limits.free_bytes, 0U);
}

TEST(CgroupLimits, AreAbsentWithoutCgroups) {
  const CgroupLimits limits = read_cgroup_limits(machine_of({}));

  EXPECT_FALSE(limits.cores);
  EXPECT_FALSE(limits.free_bytes);
}

}  // namespace
}  // namespace halfquad
