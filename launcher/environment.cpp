#include "launcher/environment.h"

#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "runtime/check.h"

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

struct KnownStarter {
  std::string_view variable;
  std::string_view name;
};

// SLURM_NTASKS is the size of the allocation and is set in a plain batch script too; only a step's own count says that
// this very process is one of several.
constexpr KnownStarter kStarters[] = {
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

std::optional<Starter> started_by(const Environment& environment) {
  for (const KnownStarter& starter : kStarters) {
    const int ranks = count_of(environment, starter.variable);
    if (ranks > 1) return Starter{std::string(starter.name), std::string(starter.variable), ranks};
  }
  return std::nullopt;
}

std::unique_ptr<Communicator> join_job(const Environment& environment) {
  const std::optional<Starter> starter = started_by(environment);
  if (!starter) return make_single_communicator();
  std::unique_ptr<Communicator> communicator = make_mpi_communicator();
  HALFQUAD_REQUIRE(
      communicator->size() > 1, kUsage,
      fmt::format(
          "{} started {} processes ({}={}), but MPI connects none of them: each would do the whole job into the "
          "same output. Start them with the launcher of the MPI that halfquad was built with ({}); under Slurm "
          "try srun --mpi=pmix or mpirun inside salloc",
          starter->name, starter->ranks, starter->variable, starter->ranks, communicator->name()));
  return communicator;
}

std::optional<std::string> connection_hint(const Environment& environment) {
  const std::optional<Starter> starter = started_by(environment);
  if (!starter || starter->name != "srun" || count_of(environment, "SLURM_PROCID") != 0) return std::nullopt;
  for (const std::string_view variable : {"PMIX_NAMESPACE", "PMI_FD", "PMI_RANK"}) {
    if (environment.contains(variable)) return std::nullopt;
  }
  return fmt::format(
      "srun connects its {} tasks by neither PMIx nor PMI, as far as its variables tell; if MPI fails now, start them "
      "with srun --mpi=pmix (srun --mpi=list shows what this Slurm has), or with mpirun inside salloc",
      starter->ranks);
}

void require_alone(const Environment& environment, std::string_view command) {
  const std::optional<Starter> starter = started_by(environment);
  if (!starter) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("started as one of {} processes by {} ({}={}); halfquad {} runs on one machine with all its "
                          "cores: start it once, without {}, or with one task",
                          starter->ranks, starter->name, starter->variable, starter->ranks, command, starter->name));
}

}  // namespace halfquad
