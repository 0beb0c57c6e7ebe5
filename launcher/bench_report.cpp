#include <algorithm>
#include <chrono>
#include <ostream>

#include "launcher/bench.h"

namespace halfquad {

BenchReport::BenchReport(std::ostream& out, std::string bench) : out_(out), bench_(std::move(bench)) {}

void BenchReport::add(const Fields& fields) {
  out_ << "halfquad-bench-1, bench, " << bench_;
  for (const auto& [key, value] : fields) out_ << ", " << key << ", " << value;
  out_ << '\n' << std::flush;
  rows_.push_back(fields);
}

void BenchReport::finish() {
  if (rows_.empty()) return;
  std::vector<std::string> headers;
  for (const auto& field : rows_.front()) headers.push_back(field.first);
  Table table(std::string(headers.size(), 'r'), headers);
  for (const Fields& fields : rows_) {
    std::vector<std::string> cells;
    for (const auto& field : fields) cells.push_back(field.second);
    table.add_row(std::move(cells));
  }
  out_ << '\n' << bench_ << '\n' << table.text(2) << '\n' << std::flush;
}

double timed(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median_seconds(int runs, const std::function<double()>& timed_call) {
  static_cast<void>(timed_call());
  std::vector<double> seconds;
  for (int run = 0; run < runs; ++run) seconds.push_back(timed_call());
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

double seconds_per_call(int runs, double run_seconds, const std::function<void()>& body) {
  body();
  std::int64_t calls = 1;
  const auto run_once = [&] {
    return timed([&] {
      for (std::int64_t call = 0; call < calls; ++call) body();
    });
  };
  for (double seconds = run_once(); seconds < run_seconds / 2; seconds = run_once()) {
    calls = seconds < run_seconds / 100 ? calls * 10 : calls * 2;
  }
  return median_seconds(runs, run_once) / static_cast<double>(calls);
}

}  // namespace halfquad
