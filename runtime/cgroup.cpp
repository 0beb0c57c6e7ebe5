#include "runtime/cgroup.h"

#include <algorithm>
#include <charconv>

namespace halfquad {
namespace {

constexpr std::string_view kBlank = " \t\n";

// Cuts the text before the next `separator` off `rest`.
std::string_view cut(std::string_view& rest, char separator) {
  const std::size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view head = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return head;
}

std::string_view trim(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlank), text.size()));
  return text.substr(0, text.find_last_not_of(kBlank) + 1);
}

bool list_holds(std::string_view list, std::string_view item) {
  while (!list.empty()) {
    if (cut(list, ',') == item) return true;
  }
  return false;
}

template <class T>
void keep_least(std::optional<T>& least, std::optional<T> value) {
  if (value && (!least || *value < *least)) least = value;
}

// The folders that hold the limits of one controller.
std::vector<std::string> folders_of(const TextReader& read, std::string_view controller) {
  const std::optional<std::string> groups = read("/proc/self/cgroup");
  const std::optional<std::string> mounts = read("/proc/self/mountinfo");
  if (!groups || !mounts) return {};
  const std::optional<std::string> path = cgroup_path(*groups, controller);
  const std::optional<CgroupMount> mount = cgroup_mount(*mounts, controller);
  if (!path || !mount) return {};
  return cgroup_folders(*mount, *path);
}

std::optional<std::uint64_t> number_in(const TextReader& read, const std::string& path) {
  const std::optional<std::string> text = read(path);
  return text ? parse_byte_count(*text) : std::nullopt;
}

struct MemoryFiles {
  std::string_view limit;
  std::string_view usage;
  std::string_view droppable;  // key in memory.stat
};

std::optional<std::uint64_t> free_bytes_of(const TextReader& read, const std::string& folder,
                                           const MemoryFiles& files) {
  const std::optional<std::uint64_t> limit = number_in(read, folder + "/" + std::string(files.limit));
  const std::optional<std::uint64_t> usage = number_in(read, folder + "/" + std::string(files.usage));
  if (!limit || !usage) return std::nullopt;
  const std::string stat = read(folder + "/memory.stat").value_or("");
  const std::uint64_t droppable = std::min(parse_field(stat, files.droppable).value_or(0), *usage);
  const std::uint64_t held = *usage - droppable;
  return *limit > held ? *limit - held : 0;
}

}  // namespace

CgroupLimits read_cgroup_limits(const TextReader& read) {
  CgroupLimits limits;
  for (const std::string& folder : folders_of(read, "")) {
    if (const auto text = read(folder + "/cpu.max")) keep_least(limits.cores, parse_cpu_max(*text));
    for (const std::string_view limit : {"memory.max", "memory.high"}) {
      keep_least(limits.free_bytes, free_bytes_of(read, folder, {limit, "memory.current", "inactive_file"}));
    }
  }
  for (const std::string& folder : folders_of(read, "cpu")) {
    const auto quota = read(folder + "/cpu.cfs_quota_us");
    const auto period = read(folder + "/cpu.cfs_period_us");
    if (quota && period) keep_least(limits.cores, parse_cfs_quota(*quota, *period));
  }
  for (const std::string& folder : folders_of(read, "memory")) {
    const MemoryFiles files{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
    keep_least(limits.free_bytes, free_bytes_of(read, folder, files));
  }
  return limits;
}

std::optional<std::string> cgroup_path(std::string_view proc_self_cgroup, std::string_view controller) {
  while (!proc_self_cgroup.empty()) {
    // "4:cpu,cpuacct:/user.slice": the path itself may hold colons.
    std::string_view path = cut(proc_self_cgroup, '\n');
    const std::string_view hierarchy = cut(path, ':');
    const std::string_view controllers = cut(path, ':');
    const bool wanted = controller.empty() ? hierarchy == "0" : list_holds(controllers, controller);
    if (wanted) return std::string(path);
  }
  return std::nullopt;
}

std::optional<CgroupMount> cgroup_mount(std::string_view mountinfo, std::string_view controller) {
  while (!mountinfo.empty()) {
    // "35 31 0:32 /root /mount/point rw,relatime shared:1 - cgroup source rw,memory": proc(5).
    std::string_view line = cut(mountinfo, '\n');
    for (int i = 0; i < 3; ++i) cut(line, ' ');
    const std::string_view root = cut(line, ' ');
    const std::string_view point = cut(line, ' ');
    const std::size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    line.remove_prefix(dash + 3);
    const std::string_view type = cut(line, ' ');
    cut(line, ' ');
    const bool wanted = controller.empty() ? type == "cgroup2" : type == "cgroup" && list_holds(line, controller);
    if (wanted) return CgroupMount{std::string(root), std::string(point)};
  }
  return std::nullopt;
}

std::vector<std::string> cgroup_folders(const CgroupMount& mount, std::string_view path) {
  // Only what lies below the mount's root can be seen. A path outside of it (a container that shares its host's
  // group names) still has that root above it.
  const std::string_view root = mount.root == "/" ? std::string_view() : std::string_view(mount.root);
  const bool below = path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/');
  std::string_view rest = below ? path.substr(root.size()) : std::string_view();
  if (rest.find("/..") != std::string_view::npos) rest = {};

  std::vector<std::string> folders;
  while (rest.size() > 1) {
    folders.push_back(mount.point + std::string(rest));
    rest = rest.substr(0, rest.rfind('/'));
  }
  folders.push_back(mount.point);
  return folders;
}

std::optional<double> parse_cpu_max(std::string_view text) {
  text = trim(text);
  const std::string_view quota = cut(text, ' ');
  return parse_cfs_quota(quota, text);
}

std::optional<double> parse_cfs_quota(std::string_view quota, std::string_view period) {
  const auto quota_us = parse_byte_count(quota);
  const auto period_us = parse_byte_count(period);
  if (!quota_us || !period_us || *quota_us == 0 || *period_us == 0) return std::nullopt;
  return static_cast<double>(*quota_us) / static_cast<double>(*period_us);
}

std::optional<std::uint64_t> parse_byte_count(std::string_view text) {
  text = trim(text);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> parse_field(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    std::string_view line = cut(text, '\n');
    if (!line.starts_with(key)) continue;
    line.remove_prefix(key.size());
    const std::size_t digits = line.find_first_not_of(kBlank);
    // A longer word that only starts like the key goes on without a blank.
    if (digits == 0 || digits == std::string_view::npos) continue;
    line.remove_prefix(digits);
    return parse_byte_count(cut(line, ' '));
  }
  return std::nullopt;
}

}  // namespace halfquad
