#include <memory>
#include <ostream>

#include <CLI/CLI.hpp>

#include "launcher/bench.h"
#include "launcher/commands.h"
#include "launcher/help_formatter.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nEach result is a line 'halfquad-bench-1, key, value, ...'; a table follows. The median of several runs counts;\n"
    "a run to warm up goes first, except when reading a checkpoint.\n"
    "\nExamples:\n"
    "  halfquad bench solve --bits 4,3 --group-size 64\n"
    "  halfquad bench io --dir /scratch --size 8GiB\n"
    "  halfquad bench io --dir /scratch --source ./model --write-bytes 7GB --mode both   reading the checkpoint while\n"
    "                        writing as much as the output has: the least time quantize can take on these disks\n";

void bench(const Context& context, const BenchOptions& options) {
  const bool all = options.what == "all";
  if (all || options.what == "memcpy") bench_memcpy(context, options);
  if (all || options.what == "pack") bench_pack(context, options);
  if (all || options.what == "solve") bench_solve(context, options);
  if (options.what == "io" || (all && !options.dir.empty())) bench_io(context, options);
  if (all && options.dir.empty()) context.out << "# io left out: it needs --dir\n";
}

void add_list(CLI::App& app, const std::string& name, std::vector<std::string>& values,
              const std::string& description) {
  app.add_option(name, values, description)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("LIST")
      ->group("Solver");
}

void add_io_options(CLI::App& app, BenchOptions& options) {
  app.add_option("--dir", options.dir, "Directory for the temporary files of io")->type_name("DIR")->group("I/O");
  app.add_option("--size", options.size, "Bytes to read, and to write without --write-bytes")
      ->capture_default_str()
      ->type_name("SIZE")
      ->group("I/O");
  app.add_option("--source", options.source, "Read this checkpoint's weights instead of a temporary file")
      ->type_name("MODEL")
      ->group("I/O");
  app.add_option("--write-bytes", options.write_bytes, "Bytes to write")->type_name("SIZE")->group("I/O");
  app.add_option("--mode", options.mode, "read, write, both (at once), all")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"read", "write", "both", "all"})))
      ->type_name("MODE")
      ->group("I/O");
  app.add_option("--direct-io", options.machine.direct_io, "on, off, or auto: every way of reading")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "on", "off"})))
      ->type_name("WHEN")
      ->group("I/O");
}

}  // namespace

Command add_bench(CLI::App& root, const Context& context) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* app = root.add_subcommand("bench", "Measure solver, packers, disks and memory of this machine");
  app->footer(kFooter);
  app->add_option("WHAT", options->what, "solve, pack, io, memcpy or all")
      ->default_str("all")
      ->check(quiet(CLI::IsMember({"solve", "pack", "io", "memcpy", "all"})))
      ->type_name("");
  app->add_option("--runs", options->runs, "Runs of which the median counts")
      ->capture_default_str()
      ->check(quiet(CLI::Range(1, 1000)))
      ->type_name("N");
  app->add_option("--seconds", options->run_seconds, "Length of one run in memory")
      ->capture_default_str()
      ->check(quiet(CLI::Range(0.001, 60.0)))
      ->type_name("SECONDS");
  add_list(*app, "--bits", options->bits, "Bits to measure: 8,6,5,4,3,2,1.58,1");
  add_list(*app, "--group-size", options->group_sizes, "Group sizes to measure");
  add_list(*app, "--isa", options->isas, "SIMD targets to measure; all without it");
  app->add_option("--round-zero", options->round_zero, "As quantize has it: auto (4 bit only), on, off; off is faster")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "on", "off"})))
      ->type_name("WHEN")
      ->group("Solver");
  app->add_option("--solver", options->solver, "hqq, or als beside hqq")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"hqq", "als"})))
      ->type_name("NAME")
      ->group("Solver");
  app->add_option("--zeros", options->zeros, "float, or integer or symmetric ones beside hqq's")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"float", "integer", "symmetric"})))
      ->type_name("KIND")
      ->group("Solver");
  add_thread_option(*app, options->machine);
  app->get_option("--threads")->description("Threads; solve uses one unless this is given");
  add_io_options(*app, *options);
  return {app, [&context, options] { bench(context, *options); }};
}

}  // namespace halfquad
