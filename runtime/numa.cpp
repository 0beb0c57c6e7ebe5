#include "runtime/numa.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <iterator>
#include <optional>

namespace halfquad {
namespace {

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::optional<int> parse_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

}  // namespace

std::set<int> parse_cpu_list(std::string_view text) {
  constexpr int kMostCpus = 1 << 20;
  std::set<int> cpus;
  while (!text.empty() && text.front() != '\n') {
    const std::optional<int> first = parse_number(text);
    std::optional<int> last = first;
    if (first && text.starts_with('-')) {
      text.remove_prefix(1);
      last = parse_number(text);
    }
    if (!first || !last || *last >= kMostCpus) return {};
    for (int cpu = *first; cpu <= *last; ++cpu) cpus.insert(cpu);
    if (!text.empty() && text.front() != ',' && text.front() != '\n') return {};
    if (text.starts_with(',')) text.remove_prefix(1);
  }
  return cpus;
}

bool is_near_this_process(std::string_view bus_id) {
  std::string name(bus_id);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name.find('/') != std::string::npos) return false;
  const std::set<int> near = parse_cpu_list(read_text("/sys/bus/pci/devices/" + name + "/local_cpulist"));
  if (near.empty()) return false;
  const std::string status = read_text("/proc/self/status");
  constexpr std::string_view kKey = "Cpus_allowed_list:\t";
  const std::size_t at = status.find(kKey);
  if (at == std::string::npos) return false;
  const std::set<int> own = parse_cpu_list(std::string_view(status).substr(at + kKey.size()));
  return !own.empty() && std::includes(near.begin(), near.end(), own.begin(), own.end());
}

}  // namespace halfquad
