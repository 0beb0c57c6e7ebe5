#include "launcher/environment.h"

#include <charconv>
#include <string_view>

#include <fmt/format.h>

namespace halfquad {
namespace {

/// The variable as a count; 0 when it is unset or no number.
int count_of(const Environment& environment, std::string_view name) {
  const auto found = environment.find(name);
  if (found == environment.end()) return 0;
  const std::string& text = found->second;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() ? value : 0;
}

struct Starter {
  std::string_view variable;
  std::string_view name;
};

// SLURM_NTASKS is the size of the allocation and is set in a plain batch script too; only a step's own count says that
// this very process is one of several.
constexpr Starter kStarters[] = {
    {"OMPI_COMM_WORLD_SIZE", "mpirun"}, {"PMI_SIZE", "mpirun"},           {"MV2_COMM_WORLD_SIZE", "mpirun"},
    {"MPI_LOCALNRANKS", "mpirun"},      {"SLURM_STEP_NUM_TASKS", "srun"},
};

}  // namespace

Environment read_environment(const char* const* variables) {
  Environment environment;
  if (variables == nullptr) return environment;
  for (; *variables != nullptr; ++variables) {
    const std::string_view entry = *variables;
    const std::size_t equals = entry.find('=');
    if (equals == std::string_view::npos) continue;
    environment.emplace(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return environment;
}

std::optional<std::string> several_ranks(const Environment& environment) {
  for (const Starter& starter : kStarters) {
    const int ranks = count_of(environment, starter.variable);
    if (ranks <= 1) continue;
    return fmt::format(
        "started as one of {} processes by {} ({}={}); this version runs on one machine with all its cores: start it "
        "once, without {}, or with one task",
        ranks, starter.name, starter.variable, ranks, starter.name);
  }
  return std::nullopt;
}

}  // namespace halfquad
