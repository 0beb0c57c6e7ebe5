#include "runtime/machine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <sched.h>
#include <string_view>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/cgroup.h"

namespace halfquad {
namespace {

std::optional<std::string> read_text(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

int cores_online() {
  const long cores = ::sysconf(_SC_NPROCESSORS_ONLN);
  return cores > 0 ? static_cast<int>(cores) : 1;
}

int cores_in_affinity_mask() {
  // The kernel refuses a mask shorter than its own, whose length it does not tell.
  constexpr int kMostCpus = 1 << 20;
  for (int cpus = 1024; cpus <= kMostCpus; cpus *= 2) {
    const auto free_set = [](cpu_set_t* set) { CPU_FREE(set); };
    const std::unique_ptr<cpu_set_t, decltype(free_set)> set(CPU_ALLOC(static_cast<unsigned>(cpus)), free_set);
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<unsigned>(cpus));
    if (set && ::sched_getaffinity(0, bytes, set.get()) == 0) return CPU_COUNT_S(bytes, set.get());
  }
  return cores_online();
}

}  // namespace

int usable_cores() {
  const int cores = cores_in_affinity_mask();
  const std::optional<double> quota = read_cgroup_limits(read_text).cores;
  // Up: with a quota of 1.5 one thread would leave a third of it unused.
  const double limited = quota ? std::min<double>(cores, std::ceil(*quota)) : cores;
  return std::max(1, static_cast<int>(limited));
}

int fair_cores(int processes) {
  const int usable = usable_cores();
  const int online = cores_online();
  const int share = (usable < online ? online : usable) / std::max(1, processes);
  return std::max(1, std::min(usable, share));
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
}

std::uint64_t available_memory_bytes() {
  const std::string meminfo = read_text("/proc/meminfo").value_or("");
  const std::optional<std::uint64_t> kib = parse_field(meminfo, "MemAvailable:");
  const std::uint64_t machine = kib ? *kib * 1024 : std::numeric_limits<std::uint64_t>::max();
  return std::min(machine, read_cgroup_limits(read_text).free_bytes.value_or(machine));
}

std::uint64_t peak_resident_bytes() {
  // Before getrusage, whose figure survives exec and so may be the peak of the program that started this one.
  const std::string status = read_text("/proc/self/status").value_or("");
  if (const auto kib = parse_field(status, "VmHWM:")) return *kib * 1024;
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

std::string cpu_model() {
  constexpr std::string_view kKey = "model name";
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(kKey)) continue;
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos && colon + 2 < line.size()) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

}  // namespace halfquad
