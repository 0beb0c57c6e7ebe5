#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launcher/context.h"
#include "launcher/devices.h"
#include "launcher/job.h"
#include "launcher/job_monitor.h"
#include "launcher/options.h"

namespace halfquad {

/// A job that makes an output, on however many ranks: quantize, or convert.
struct QuantizeOptions {
  std::string model;
  std::string out;
  bool overwrite = false;
  bool fresh = false;
  std::string schedule = "dynamic";
  std::string assembly = "auto";
  std::string trace;
  MonitorOptions monitor;
  SpecOptions spec;
  MachineOptions machine;
  DeviceOptions devices;
  bool single_file = false;  ///< OUT is one file.
  bool measures = false;     ///< The job is one that --importance auto and random are for.
  /// Makes the job of these options; every rank does, with the same result.
  std::function<Job(const Context&, const QuantizeOptions&, const NonfiniteSearch&)> prepare;
};

/// --overwrite, --fresh; OUT and where it comes from are the command's own.
void add_output_options(CLI::App& app, QuantizeOptions& options);
/// --schedule, --assembly.
void add_rank_options(CLI::App& app, QuantizeOptions& options);
/// --trace.
void add_trace_option(CLI::App& app, QuantizeOptions& options);

/// An OUT with the extension of a container is that one file; without --format it also names the format.
[[nodiscard]] bool names_single_file(const std::string& out, SpecOptions& spec);

/// Does the job as one of its ranks. `command` is the command line, program name first.
void run_quantize(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command);

}  // namespace halfquad
