#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "kernels/solver.h"
#include "launcher/context.h"
#include "launcher/options.h"
#include "launcher/table.h"

namespace halfquad {

struct BenchOptions {
  std::string what = "all";
  std::vector<std::string> bits{"8", "4", "3", "2", "1"};
  std::vector<std::string> group_sizes{"32", "64", "128"};
  std::vector<std::string> isas;  ///< Empty: all of this machine.
  std::string round_zero = "auto";
  std::string solver = "hqq";   ///< Or "als", measured beside hqq.
  std::string zeros = "float";  ///< Or "integer", "symmetric": the search for whole zeros, measured beside hqq.
  int runs = 5;                 ///< Measured runs, of which the median counts; one more goes first.
  double run_seconds = 0.03;    ///< Length of a run of the in-memory benches.
  std::string dir;
  std::string size = "1GiB";
  std::string source;
  std::string write_bytes;
  std::string mode = "all";
  MachineOptions machine;
};

/// Results as they come, one `halfquad-bench-1, key, value, ...` line each, and a table for people at the end.
class BenchReport {
 public:
  using Fields = std::vector<std::pair<std::string, std::string>>;
  BenchReport(std::ostream& out, std::string bench);

  /// @pre the same keys in every call.
  void add(const Fields& fields);
  void finish();

 private:
  std::ostream& out_;
  std::string bench_;
  std::vector<Fields> rows_;
};

/// Median duration of `runs` calls, after one that does not count.
[[nodiscard]] double median_seconds(int runs, const std::function<double()>& timed_call);
/// Seconds that `body` takes.
[[nodiscard]] double timed(const std::function<void()>& body);
/// Median seconds per call of a short `body`, repeated for `run_seconds` in each of `runs` runs.
[[nodiscard]] double seconds_per_call(int runs, double run_seconds, const std::function<void()>& body);

/// Weights per second of one thread on an L2-sized block: decoded, solved and packed, no step skipped.
[[nodiscard]] double measure_solve_rate(Solver& solver, const QuantSpec& spec);
/// Bytes per second of reading a few GiB of the checkpoint the way quantize reads.
[[nodiscard]] double measure_read_rate(const Context& context, const Checkpoint& checkpoint,
                                       const MachineOptions& machine);
/// Bytes per second of copying between two large buffers with one thread.
[[nodiscard]] double measure_memcpy_rate(const BenchOptions& options);

void bench_solve(const Context& context, const BenchOptions& options);
void bench_pack(const Context& context, const BenchOptions& options);
void bench_memcpy(const Context& context, const BenchOptions& options);
void bench_io(const Context& context, const BenchOptions& options);

}  // namespace halfquad
