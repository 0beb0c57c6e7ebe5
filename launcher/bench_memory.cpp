#include <algorithm>
#include <array>
#include <cstring>
#include <ostream>

#include <fmt/format.h>

#include "kernels/pack.h"
#include "launcher/bench.h"
#include "runtime/buffer_pool.h"
#include "runtime/machine.h"
#include "runtime/parallel.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::size_t kCacheBytes = 128 << 10;
constexpr std::size_t kMemoryBytes = 128 << 20;

/// Two buffers, touched.
struct CopyPair {
  explicit CopyPair(std::size_t bytes) : pool(2 * bytes), from(pool.acquire(bytes)), to(pool.acquire(bytes)) {
    std::memset(from.bytes().data(), 1, bytes);
    std::memset(to.bytes().data(), 2, bytes);
  }
  void copy() { std::memcpy(to.bytes().data(), from.bytes().data(), from.bytes().size()); }

  BufferPool pool;
  Buffer from, to;
};

/// Bytes copied per second by `threads` threads, each between buffers of `bytes`.
double copy_rate(std::size_t bytes, int threads, const BenchOptions& options) {
  std::vector<std::unique_ptr<CopyPair>> pairs;
  for (int i = 0; i < threads; ++i) pairs.push_back(std::make_unique<CopyPair>(bytes));
  const double alone = seconds_per_call(options.runs, options.run_seconds, [&] { pairs.front()->copy(); });
  if (threads == 1) return static_cast<double>(bytes) / alone;

  const auto calls = static_cast<std::int64_t>(options.run_seconds / alone) + 1;
  const StopFlag stop;
  const double seconds = median_seconds(options.runs, [&] {
    return timed([&] {
      parallel_for(threads, threads, stop, [&](int, std::int64_t index) {
        for (std::int64_t call = 0; call < calls; ++call) pairs[static_cast<std::size_t>(index)]->copy();
      });
    });
  });
  return static_cast<double>(bytes) * static_cast<double>(calls * threads) / seconds;
}

/// Codes packed or unpacked per second, and memcpy of as many bytes as go in and out together, as its limit.
void bench_packing(CodeWidth width, double memcpy_rate, const BenchOptions& options, BenchReport& report) {
  const Packing packing = packing_of(width);
  const auto slabs = static_cast<std::size_t>(slabs_of(packing));
  const std::size_t per_slab = kCacheBytes / slabs;
  std::vector<std::uint8_t> codes(per_slab * slabs, 1);
  std::vector<std::byte> packed(per_slab * static_cast<std::size_t>(packed_bytes_of(packing)));
  std::vector<const std::uint8_t*> inputs;
  std::vector<std::uint8_t*> outputs;
  for (std::size_t slab = 0; slab < slabs; ++slab) {
    inputs.push_back(codes.data() + slab * per_slab);
    outputs.push_back(codes.data() + slab * per_slab);
  }
  const auto count = static_cast<std::int64_t>(per_slab);
  const double pack =
      seconds_per_call(options.runs, options.run_seconds, [&] { pack_codes(packing, inputs, count, packed.data()); });
  const double unpack = seconds_per_call(options.runs, options.run_seconds,
                                         [&] { unpack_codes(packing, packed.data(), count, outputs); });
  const auto moved = static_cast<double>(codes.size() + packed.size()) / 2;  // memcpy's bytes count once, too
  const auto bytes = static_cast<double>(codes.size());
  report.add({{"packing", std::string(name_of(packing))},
              {"pack_gcodes_per_s", fmt::format("{:.2f}", bytes / pack / 1e9)},
              {"pack_fraction_of_memcpy", fmt::format("{:.3f}", moved / pack / memcpy_rate)},
              {"unpack_gcodes_per_s", fmt::format("{:.2f}", bytes / unpack / 1e9)},
              {"unpack_fraction_of_memcpy", fmt::format("{:.3f}", moved / unpack / memcpy_rate)}});
}

}  // namespace

double measure_memcpy_rate(const BenchOptions& options) { return copy_rate(kMemoryBytes, 1, options); }

void bench_pack(const Context& context, const BenchOptions& options) {
  const double memcpy_rate = copy_rate(kCacheBytes, 1, options);
  BenchReport report(context.out, "pack");
  for (const CodeWidth width : {CodeWidth::k8, CodeWidth::k4, CodeWidth::k3, CodeWidth::k2, CodeWidth::k1}) {
    bench_packing(width, memcpy_rate, options, report);
  }
  report.finish();
}

void bench_memcpy(const Context& context, const BenchOptions& options) {
  const int threads = options.machine.thread_count();
  BenchReport report(context.out, "memcpy");
  for (const std::size_t bytes : {kCacheBytes, kMemoryBytes}) {
    for (const int used : threads > 1 ? std::vector<int>{1, threads} : std::vector<int>{1}) {
      report.add({{"buffer", human_bytes(bytes)},
                  {"threads", fmt::format("{}", used)},
                  {"gb_per_s", fmt::format("{:.2f}", copy_rate(bytes, used, options) / 1e9)}});
    }
  }
  report.finish();
}

}  // namespace halfquad
