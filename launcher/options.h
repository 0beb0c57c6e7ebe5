#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/App.hpp>

#include "io/file_system.h"
#include "kernels/solver.h"
#include "runtime/dtype.h"
#include "runtime/log.h"
#include "runtime/progress.h"
#include "sharding/format.h"
#include "sharding/rules.h"

namespace halfquad {

/// Options about the machine and messages, as typed; several commands share them.
struct MachineOptions {
  std::optional<int> threads;
  std::string memory;
  std::string direct_io = "auto";
  std::string progress = "auto";
  double progress_interval = 5;  ///< Seconds.
  std::string log_level = "info";
  std::string log_format = "text";
  std::string backend = "auto";
  std::string isa;

  /// --threads, or this process's part of the machine's cores when `processes` share it.
  [[nodiscard]] int thread_count(int processes = 1) const;
  /// --memory, or the smaller of 2 GiB and its part of half of what is available.
  [[nodiscard]] std::uint64_t memory_bytes(int processes = 1) const;
  [[nodiscard]] ReadMode read_mode() const;
  [[nodiscard]] ProgressOptions progress_options() const;
  [[nodiscard]] LogLevel level() const { return log_level_from_name(log_level); }
  [[nodiscard]] LogFormat format() const { return log_format_from_name(log_format); }
  /// Makes the solver asked for. Throws kUsage at once, before any work, for one that is not there.
  [[nodiscard]] std::function<std::unique_ptr<Solver>()> solver_factory() const;
};

void add_thread_option(CLI::App& app, MachineOptions& options);
void add_memory_options(CLI::App& app, MachineOptions& options);   ///< --memory, --direct-io
void add_solver_options(CLI::App& app, MachineOptions& options);   ///< --backend, --isa
void add_message_options(CLI::App& app, MachineOptions& options);  ///< --progress, --log-level, ...

/// What a job finds of the inputs of its layers before its work, or why it does not.
struct MeasuredImportance {
  /// The bytes of an importance file; null: nothing was measured; empty: it will be.
  std::shared_ptr<const std::string> file;
  std::string about;  ///< What was run.
  std::string why_not;
  std::string disagreeing;  ///< What this rank would have measured, when others would not.
  bool was_there = false;   ///< An interrupted run had measured it.
  double seconds = 0;
};

/// Options that decide the output's bytes.
struct SpecOptions {
  std::string bits;
  std::string group_size;
  std::optional<int> axis;
  std::string solver;
  std::optional<int> iters;
  std::optional<int> starts;
  std::string importance;  ///< "auto" (or empty), "random", "weights", "none", or a file's path.
  std::optional<double> importance_power;
  std::string round_zero = "auto";
  bool per_tensor = false;
  std::string type;     ///< Of ggml's blocks.
  std::string mixture;  ///< Of them.
  std::string format;   ///< Empty: hqq, or what the output's name says.
  std::string scale_dtype;
  bool symmetric = false;
  bool group_fallback = false;
  std::string nonfinite = "error";
  std::string max_shard_size;
  std::vector<std::string> rules;
  std::vector<std::string> skip;
  std::string recipe;
  std::string target_size;
  std::optional<double> target_bpw;
  std::string embeddings;  ///< "8", "6", "keep"; empty: keep, or as the mixture has it.
  /// Found by the job itself, not an option; null before.
  std::shared_ptr<const MeasuredImportance> measured = nullptr;

  /// Whether bits are to be chosen by a budget.
  [[nodiscard]] bool has_target() const noexcept { return !target_size.empty() || target_bpw; }
  /// The recipe file's content with the command line on top: options replace its defaults, rules come after its own.
  [[nodiscard]] Recipe build_recipe(FileSystem& fs) const;
  /// What --mixture and --embeddings say of tensors by name. Throws kUsage for what the format or the model lacks.
  void add_named(Recipe& built, const Checkpoint& checkpoint) const;
  [[nodiscard]] const Format& output_format() const;
  /// --scale-dtype, or the format's default. Throws kUsage for one that the format does not have.
  [[nodiscard]] DType stored() const;
  /// What the format takes, with --group-fallback in it.
  [[nodiscard]] SpecLimits limits() const;
  /// The file that --importance names; empty when it does not.
  [[nodiscard]] std::string importance_file() const;
  /// Whether the job is to measure what the inputs of layers are like.
  [[nodiscard]] bool wants_measuring() const;
  /// --max-shard-size; OutputLayout::kOneFile without it.
  [[nodiscard]] std::uint64_t max_shard_bytes() const;
};

void add_spec_options(CLI::App& app, SpecOptions& options);

/// "f16", "bf16", "f32" in any case.
[[nodiscard]] DType float_dtype_from_name(const std::string& name, const std::string& option);

/// A size option's value; throws kUsage naming `option`.
[[nodiscard]] std::uint64_t parse_size_option(const std::string& text, const std::string& option);

}  // namespace halfquad
