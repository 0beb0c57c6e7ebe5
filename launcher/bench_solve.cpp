#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <ostream>

#include <fmt/format.h>

#include "kernels/column_importance.h"
#include "kernels/decode.h"
#include "kernels/pack.h"
#include "launcher/bench.h"
#include "runtime/buffer_pool.h"
#include "runtime/check.h"
#include "runtime/machine.h"
#include "runtime/parallel.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::int64_t kBlockWeights = 65536;  // what a strip of a tile hands the solver; all of it stays inside L2
constexpr double kSigma = 0.02;                // spread of a trained layer's weights
constexpr std::int64_t kColumns = 4096;        // whose importance the als solver is given

/// Roughly Gaussian bf16 weights, the same every time.
void fill_weights(std::span<std::byte> bytes) {
  std::uint64_t state = 0x9E3779B97F4A7C15ULL;
  for (std::size_t at = 0; at + 2 <= bytes.size(); at += 2) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      sum += static_cast<double>(state >> 40) / static_cast<double>(1 << 24);
    }
    const std::uint16_t bits = f32_to_bf16(static_cast<float>((sum - 6) * kSigma));
    std::memcpy(bytes.data() + at, &bits, sizeof bits);
  }
}

/// A block of weights with everything it takes to solve and pack it again and again.
class SolveBench {
 public:
  SolveBench(const QuantSpec& spec, FixedPointExit exit) : shape_(shape_of(spec)), pool_(kPoolBytes) {
    const std::int64_t rows = shape_.groups;
    const Packing packing = packing_of(spec.width);
    packed_rows_ = halfquad::packed_rows(packing, rows);
    const auto codes = static_cast<std::size_t>(packed_rows_ * slabs_of(packing) * shape_.group_elems);
    weights_ = pool_.acquire(static_cast<std::size_t>(weights()) * 2);
    codes_ = pool_.acquire(codes);
    packed_ = pool_.acquire(static_cast<std::size_t>(packed_rows_ * shape_.group_elems * packed_bytes_of(packing)));
    fill_weights(weights_.bytes());
    std::memset(codes_.bytes().data(), 0, codes);
    scale_.resize(static_cast<std::size_t>(rows));
    zero_.resize(static_cast<std::size_t>(rows));
    stats_.step_abs.resize(static_cast<std::size_t>(spec.iters));
    request_.spec = spec;
    request_.iters = spec.iters;
    request_.exit = exit;
    if (spec.solver == SolverKind::kAls) {
      ColumnMoments moments(kColumns);
      add_to(moments);
      importance_ = column_importance(moments, kBlockWeights);
    }
  }

  /// What comes before als can solve: sums over columns.
  void add_to(ColumnMoments& moments) const { moments.add(weights_.bytes().data(), DType::kBF16, 0, weights()); }

  [[nodiscard]] std::int64_t weights() const noexcept { return shape_.groups * shape_.group_elems; }

  void run(Solver& solver) {
    GroupBlock block;
    block.data = weights_.bytes().data();
    block.dtype = DType::kBF16;
    block.groups = shape_.groups;
    block.group_elems = shape_.group_elems;
    block.group_stride = shape_.group_elems;
    if (!importance_.empty()) block.importance = {importance_.data(), kColumns, 0};
    auto* codes = reinterpret_cast<std::uint8_t*>(codes_.bytes().data());
    SolveTarget target{codes, shape_.group_elems, 1, scale_.data(), zero_.data()};
    solver.solve(block, request_, target, stats_);

    const Packing packing = packing_of(request_.spec.width);
    std::vector<const std::uint8_t*> slabs;
    for (int slab = 0; slab < slabs_of(packing); ++slab) {
      slabs.push_back(codes + slab * packed_rows_ * shape_.group_elems);
    }
    pack_codes(packing, slabs, packed_rows_ * shape_.group_elems, packed_.bytes().data());
  }

 private:
  static constexpr std::uint64_t kPoolBytes = 16 << 20;

  static GroupedShape shape_of(const QuantSpec& spec) {
    const std::int64_t groups = std::max<std::int64_t>(1, kBlockWeights / spec.group_size);
    return {groups, spec.group_size, groups, spec.group_size};
  }

  GroupedShape shape_;
  BufferPool pool_;
  Buffer weights_, codes_, packed_;
  std::int64_t packed_rows_ = 0;
  std::vector<float> scale_, zero_, importance_;
  SolveStats stats_;
  SolveRequest request_;
};

using MakeSolver = std::function<std::unique_ptr<Solver>()>;

/// Weights per second of `threads` threads, each on a block of its own.
double solve_rate(const MakeSolver& make, const QuantSpec& spec, FixedPointExit exit, int threads,
                  const BenchOptions& options) {
  std::vector<std::unique_ptr<Solver>> solvers;
  std::vector<std::unique_ptr<SolveBench>> blocks;
  for (int i = 0; i < threads; ++i) {
    solvers.push_back(make());
    blocks.push_back(std::make_unique<SolveBench>(spec, exit));
  }
  const auto weights = static_cast<double>(blocks.front()->weights());
  const double alone =
      seconds_per_call(options.runs, options.run_seconds, [&] { blocks.front()->run(*solvers.front()); });
  if (threads == 1) return weights / alone;

  const auto calls = static_cast<std::int64_t>(options.run_seconds / alone) + 1;
  const StopFlag stop;
  const double seconds = median_seconds(options.runs, [&] {
    return timed([&] {
      parallel_for(threads, threads, stop, [&](int, std::int64_t index) {
        const auto mine = static_cast<std::size_t>(index);
        for (std::int64_t call = 0; call < calls; ++call) blocks[mine]->run(*solvers[mine]);
      });
    });
  });
  return weights * static_cast<double>(calls * threads) / seconds;
}

/// Weights per second of one thread that adds up the columns.
double moments_rate(const QuantSpec& spec, const BenchOptions& options) {
  const SolveBench block(spec, FixedPointExit::kOn);
  ColumnMoments moments(kColumns);
  const double seconds = seconds_per_call(options.runs, options.run_seconds, [&] { block.add_to(moments); });
  return static_cast<double>(block.weights()) / seconds;
}

QuantSpec bench_spec(const std::string& bits, const std::string& group_size, const std::string& round_zero) {
  QuantSpec spec;
  const std::optional<CodeWidth> width = code_width_from_name(bits);
  HALFQUAD_REQUIRE(width.has_value(), kUsage,
                   fmt::format("--bits: {} is not one of 8, 6, 5, 4, 3, 2, 1.58, 1", quoted(bits)));
  spec.width = *width;
  spec.round_zero = round_zero == "auto" ? *width == CodeWidth::k4 : round_zero == "on";
  const auto [end, error] = std::from_chars(group_size.data(), group_size.data() + group_size.size(), spec.group_size);
  HALFQUAD_REQUIRE(error == std::errc{} && *end == '\0' && spec.group_size > 0 && spec.group_size <= 65536, kUsage,
                   fmt::format("--group-size: {} is not a number from 1 to 65536", quoted(group_size)));
  return spec;
}

/// One row of the als solver, beside what hqq does in the same run.
void bench_als(const MakeSolver& make, const QuantSpec& hqq, const BenchReport::Fields& labels,
               const BenchOptions& options, BenchReport& report) {
  const int threads = options.machine.threads.value_or(1);
  QuantSpec spec = hqq;
  spec.solver = SolverKind::kAls;
  const double rate = solve_rate(make, spec, FixedPointExit::kOn, threads, options);
  const double hqq_rate = solve_rate(make, hqq, FixedPointExit::kOn, threads, options);
  BenchReport::Fields fields = labels;
  fields.insert(fields.end(),
                {{"solver", std::string(name_of(spec.solver))},
                 {"starts", fmt::format("{}", spec.starts)},
                 {"rounds", fmt::format("{}", spec.rounds)},
                 {"threads", fmt::format("{}", threads)},
                 {"mweights_per_s", fmt::format("{:.1f}", rate / 1e6)},
                 {"hqq_mweights_per_s", fmt::format("{:.1f}", hqq_rate / 1e6)},
                 {"ratio_to_hqq", fmt::format("{:.3f}", rate / hqq_rate)},
                 {"column_sums_mweights_per_s", fmt::format("{:.1f}", moments_rate(hqq, options) / 1e6)}});
  report.add(fields);
}

/// One row of the search for whole zeros, beside what hqq does in the same run.
void bench_whole_zeros(const MakeSolver& make, const QuantSpec& hqq, const BenchReport::Fields& labels,
                       const BenchOptions& options, BenchReport& report) {
  const int threads = options.machine.threads.value_or(1);
  QuantSpec spec = hqq;
  spec.zeros = options.zeros == "symmetric" ? ZeroKind::kSymmetric : ZeroKind::kInteger;
  const double rate = solve_rate(make, spec, FixedPointExit::kOn, threads, options);
  const double hqq_rate = solve_rate(make, hqq, FixedPointExit::kOn, threads, options);
  BenchReport::Fields fields = labels;
  fields.insert(fields.end(), {{"zeros", options.zeros},
                               {"threads", fmt::format("{}", threads)},
                               {"mweights_per_s", fmt::format("{:.1f}", rate / 1e6)},
                               {"hqq_mweights_per_s", fmt::format("{:.1f}", hqq_rate / 1e6)},
                               {"ratio_to_hqq", fmt::format("{:.3f}", rate / hqq_rate)}});
  report.add(fields);
}

/// One row per bits and group size of one SIMD target.
void bench_target(const std::string& isa, double reference_rate, const BenchOptions& options, BenchReport& report) {
  const MakeSolver make = [&isa] { return make_simd_solver(isa); };
  const int threads = options.machine.threads.value_or(1);
  for (const std::string& bits : options.bits) {
    for (const std::string& group_size : options.group_sizes) {
      const QuantSpec spec = bench_spec(bits, group_size, options.round_zero);
      if (options.solver == "als") {
        bench_als(make, spec, {{"isa", isa}, {"bits", bits}, {"group_size", group_size}}, options, report);
        continue;
      }
      if (options.zeros != "float") {
        bench_whole_zeros(make, spec, {{"isa", isa}, {"bits", bits}, {"group_size", group_size}}, options, report);
        continue;
      }
      const double every_step = solve_rate(make, spec, FixedPointExit::kOff, threads, options);
      const double with_exit = solve_rate(make, spec, FixedPointExit::kOn, threads, options);
      report.add({{"isa", isa},
                  {"bits", bits},
                  {"group_size", group_size},
                  {"steps", fmt::format("{}", spec.iters)},
                  {"threads", fmt::format("{}", threads)},
                  {"mweights_per_s_no_step_skipped", fmt::format("{:.1f}", every_step / 1e6)},
                  {"mweights_per_s", fmt::format("{:.1f}", with_exit / 1e6)},
                  {"fraction_of_best_4bit_g64", fmt::format("{:.3f}", every_step / threads / reference_rate)}});
    }
  }
}

}  // namespace

double measure_solve_rate(Solver& solver, const QuantSpec& spec) {
  QuantSpec blockwise = spec;
  if (spec.group_size == 0 || spec.group_size > kBlockWeights || !spec.channel_wise) blockwise.group_size = 4096;
  blockwise.channel_wise = true;
  SolveBench bench(blockwise, FixedPointExit::kOff);
  constexpr int kRuns = 5;
  constexpr double kRunSeconds = 0.05;
  return static_cast<double>(bench.weights()) / seconds_per_call(kRuns, kRunSeconds, [&] { bench.run(solver); });
}

void bench_solve(const Context& context, const BenchOptions& options) {
  const std::vector<std::string> available = simd_targets();
  const std::vector<std::string>& isas = options.isas.empty() ? available : options.isas;
  for (const std::string& isa : isas) static_cast<void>(make_simd_solver(isa));
  for (const std::string& bits : options.bits) {
    for (const std::string& group_size : options.group_sizes)
      static_cast<void>(bench_spec(bits, group_size, options.round_zero));
  }
  context.out << fmt::format("# {}: bf16 in, packed codes out, blocks of {} weights, one thread = one core\n",
                             cpu_model(), kBlockWeights);
  double reference_rate = 0;
  if (options.solver == "hqq" && options.zeros == "float") {
    reference_rate = solve_rate([&] { return make_simd_solver(available.front()); },
                                bench_spec("4", "64", options.round_zero), FixedPointExit::kOff, 1, options);
  }
  BenchReport report(context.out, "solve");
  for (const std::string& isa : isas) bench_target(isa, reference_rate, options, report);
  report.finish();
}

}  // namespace halfquad
