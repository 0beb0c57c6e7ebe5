#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halfquad {

/// What the control groups above this process leave to it; nothing where they set no limit.
struct CgroupLimits {
  std::optional<double> cores;
  std::optional<std::uint64_t> free_bytes;  ///< Limit less use; page cache that the kernel would drop counts as free.
};

/// A file's text, or nothing when it cannot be read. A parameter, so that tests can hand in a machine of their own.
using TextReader = std::function<std::optional<std::string>(const std::string& path)>;

/// The tightest limits of this process's groups and of every group above them, in cgroup v1 or v2 or both.
[[nodiscard]] CgroupLimits read_cgroup_limits(const TextReader& read);

/// The group's path in the text of /proc/self/cgroup; `controller` "" means cgroup v2.
[[nodiscard]] std::optional<std::string> cgroup_path(std::string_view proc_self_cgroup, std::string_view controller);

struct CgroupMount {
  std::string root;   ///< The group that is seen at the mount point; not "/" inside some containers.
  std::string point;  ///< For example /sys/fs/cgroup/memory.
};

/// Where /proc/self/mountinfo says a v1 controller, or with "" cgroup v2, is mounted.
[[nodiscard]] std::optional<CgroupMount> cgroup_mount(std::string_view mountinfo, std::string_view controller);

/// The folders of group `path` and of all groups above it that can be seen, innermost first.
[[nodiscard]] std::vector<std::string> cgroup_folders(const CgroupMount& mount, std::string_view path);

/// "150000 100000" -> 1.5 cores; nothing for "max ...".
[[nodiscard]] std::optional<double> parse_cpu_max(std::string_view text);

/// v1's cpu.cfs_quota_us and cpu.cfs_period_us; nothing for a quota of -1.
[[nodiscard]] std::optional<double> parse_cfs_quota(std::string_view quota, std::string_view period);

/// A byte count on a line of its own; nothing for "max" or anything else.
[[nodiscard]] std::optional<std::uint64_t> parse_byte_count(std::string_view text);

/// The number behind `key` at the start of a line: "MemAvailable:   123 kB" -> 123, "inactive_file 42" -> 42.
[[nodiscard]] std::optional<std::uint64_t> parse_field(std::string_view text, std::string_view key);

}  // namespace halfquad
