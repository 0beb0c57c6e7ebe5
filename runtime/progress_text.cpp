#include "runtime/progress_text.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "runtime/json_text.h"
#include "runtime/text.h"
#include "runtime/trace.h"

namespace halfquad {
namespace {

constexpr double kFarBehind = 0.8;  // of what the rank in the middle has done
constexpr double kLongSilence = 5;  // seconds; ranks speak every half second

std::string bar_of(double fraction, int columns) {
  const int filled = static_cast<int>(fraction * columns);
  std::string bar = " |";
  for (int i = 0; i < columns; ++i) bar += i < filled ? "\u2588" : " ";
  return bar + "|";
}

double per_second(std::uint64_t amount, double seconds, double unit) {
  return seconds > 0 ? static_cast<double>(amount) / seconds / unit : 0;
}

// Continuation bytes of UTF-8 take no column of their own.
int columns_of(std::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & '\xC0') != '\x80'; }));
}

std::string first_columns(std::string text, int columns) {
  std::size_t end = 0;
  while (end < text.size() && columns_of(std::string_view(text).substr(0, end + 1)) <= columns) ++end;
  text.resize(end);
  return text;
}

// "3 on node7"
std::string rank_name(int rank, const std::string& host) { return fmt::format("{} on {}", rank, one_line(host)); }

std::string nullable(std::optional<double> value) { return value ? fmt::format("{:.3f}", *value) : "null"; }

std::string rank_json(const RankProgress& rank) {
  return fmt::format(
      R"({{"rank":{},"host":{},"source_bytes_done":{},"bytes_read":{},"bytes_written":{},"weights_done":{},)"
      R"("silent_seconds":{:.3f},"ended":{}}})",
      rank.rank, json_string(rank.host), rank.source_bytes_done, rank.bytes_read, rank.bytes_written, rank.weights_done,
      rank.silent_seconds, rank.ended);
}

}  // namespace

std::string progress_text(const ProgressSnapshot& now, int bar_columns) {
  const double fraction = now.fraction();
  // Rounded down: 100.0 % means done.
  std::string text = fmt::format("{:5.1f} %", std::floor(fraction * 1000) / 10);
  if (bar_columns > 0) text += bar_of(fraction, bar_columns);
  // The busier direction: quantizing reads more than it writes, dequantizing writes more than it reads.
  const std::uint64_t moved = std::max(now.bytes_read, now.bytes_written);
  text += fmt::format("{}{:.2f} GB/s", bar_columns > 0 ? " " : "  ", per_second(moved, now.seconds, 1e9));
  if (now.totals.weights > 0) text += fmt::format("  {:.0f} Mw/s", per_second(now.weights_done, now.seconds, 1e6));
  if (now.totals.tensors > 0) text += fmt::format("  tensors {}/{}", now.tensors_done, now.totals.tensors);
  if (fraction >= 1) return text + "  in " + human_duration(now.seconds);
  if (now.eta_seconds) text += "  ETA " + human_duration(*now.eta_seconds);
  const std::optional<SlowestRank> slowest = slowest_rank(now.ranks);
  if (slowest && slowest->of_median < kFarBehind) {
    text += fmt::format("  slowest: rank {}, {:.0f} % of the median", rank_name(slowest->rank, slowest->host),
                        100 * slowest->of_median);
  }
  return text;
}

std::string fitted_progress_text(std::string_view label, const ProgressSnapshot& now, int columns) {
  constexpr int kShortestBar = 6;
  constexpr int kLongestBar = 40;
  constexpr int kBarFrame = 2;  // "| |" for the two blanks without a bar
  const std::string prefix = label.empty() ? std::string() : std::string(label) + " ";
  const std::string bare = prefix + progress_text(now, 0);
  const int bar = std::min(columns - columns_of(bare) - kBarFrame, kLongestBar);
  if (bar < kShortestBar) return first_columns(bare, columns);
  return prefix + progress_text(now, bar);
}

std::string ranks_text(const ProgressSnapshot& now) {
  std::size_t widest = 0;
  for (const RankProgress& rank : now.ranks) widest = std::max(widest, rank_name(rank.rank, rank.host).size());
  std::string text;
  for (const RankProgress& rank : now.ranks) {
    const double part = now.totals.source_bytes == 0 ? 0
                                                     : static_cast<double>(rank.source_bytes_done) /
                                                           static_cast<double>(now.totals.source_bytes);
    text += fmt::format("  rank {:<{}}  {:5.1f} %  {:.2f} GB/s  {:.0f} Mw/s", rank_name(rank.rank, rank.host), widest,
                        100 * part, per_second(std::max(rank.bytes_read, rank.bytes_written), now.seconds, 1e9),
                        per_second(rank.weights_done, now.seconds, 1e6));
    if (rank.ended) {
      text += "  done";
    } else if (rank.silent_seconds > kLongSilence) {
      text += fmt::format("  silent for {:.0f} s", rank.silent_seconds);
    }
    text += '\n';
  }
  return text;
}

std::string progress_json(std::string_view label, const ProgressSnapshot& now, bool with_ranks) {
  std::string text = fmt::format(
      R"({{"time":"{}","level":"info","event":"progress","phase":{},"seconds":{:.3f},"fraction":{:.6f},"eta_seconds":{},)"
      R"("source_bytes_done":{},"source_bytes":{},"bytes_read":{},"bytes_written":{},"weights_done":{},"weights":{},)"
      R"("tensors_done":{},"tensors":{})",
      utc_time(unix_microseconds()), json_string(label), now.seconds, now.fraction(), nullable(now.eta_seconds),
      now.source_bytes_done, now.totals.source_bytes, now.bytes_read, now.bytes_written, now.weights_done,
      now.totals.weights, now.tensors_done, now.totals.tensors);
  if (const std::optional<SlowestRank> slowest = slowest_rank(now.ranks)) {
    text += fmt::format(R"(,"slowest_rank":{{"rank":{},"host":{},"of_median":{:.3f}}})", slowest->rank,
                        json_string(slowest->host), slowest->of_median);
  }
  if (with_ranks) {
    std::string ranks;
    for (const RankProgress& rank : now.ranks) ranks.append(ranks.empty() ? "" : ",").append(rank_json(rank));
    text += fmt::format(R"(,"ranks":[{}])", ranks);
  }
  return text + '}';
}

}  // namespace halfquad
