#include "launcher/time_line.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include <boost/json/parse.hpp>
#include <fmt/format.h>

#include "io/json_node.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr double kMicro = 1e-6;
constexpr double kLongestMicroseconds = 1e15;  // thirty years
constexpr std::int64_t kMostRanks = 1'000'000'000;

struct Lane {
  std::int64_t rank = 0;
  std::string name;  // "worker 3"
};

struct Event {
  std::int64_t lane = 0;
  Activity activity = Activity::kOther;
  double begin = 0, end = 0;  // microseconds
};

struct Trace {
  std::map<std::int64_t, Lane> lanes;  // by thread number
  std::vector<Event> events;
};

Activity activity_of(std::string_view event) {
  const std::string_view word = event.substr(0, event.find(' '));
  if (word == "read") return Activity::kRead;
  if (word == "solve" || word == "finish") return Activity::kSolve;
  return word == "write" ? Activity::kWrite : Activity::kOther;
}

std::int64_t rank_of(const JsonNode& node) {
  const std::int64_t rank = node.integer();
  if (rank > kMostRanks) node.fail("is not a rank");
  return rank;
}

double microseconds(const JsonNode& node) {
  const double value = node.number();
  if (!(value >= 0 && value <= kLongestMicroseconds)) node.fail("is not a time");
  return value;
}

void add_event(const JsonNode& node, Trace& trace) {
  const std::string phase = node.at("ph").text();
  if (phase == "M") {
    if (node.at("name").text() != "thread_name") return;
    Lane& lane = trace.lanes[node.at("tid").integer()];
    lane.rank = rank_of(node.at("pid"));
    lane.name = node.at("args").at("name").text();
  } else if (phase == "X") {
    const double begin = microseconds(node.at("ts"));
    trace.events.push_back(
        {node.at("tid").integer(), activity_of(node.at("name").text()), begin, begin + microseconds(node.at("dur"))});
    trace.lanes.try_emplace(trace.events.back().lane, Lane{rank_of(node.at("pid")), "thread"});
  }
}

/// One event a line, as Trace::json() writes them: a file of gigabytes never becomes a tree in memory.
Trace parse_lines(std::string_view text, const std::string& name) {
  constexpr std::string_view kBegin = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  HALFQUAD_REQUIRE(text.starts_with(kBegin), kBadInput,
                   fmt::format("{} is not a time line that halfquad wrote with --trace", quoted(name)));
  Trace trace;
  std::size_t number = 1;
  bool ended = false;
  for (std::size_t at = kBegin.size(); at < text.size() && !ended; ++number) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line == "]}") ended = true;
    if (line.ends_with(',')) line.remove_suffix(1);
    if (line.empty() || ended) continue;
    boost::system::error_code failed;
    const boost::json::value value = boost::json::parse({line.data(), line.size()}, failed);
    const std::string place = fmt::format("line {} of {}", number, quoted(name));
    HALFQUAD_REQUIRE(!failed, kBadInput, fmt::format("{} is not JSON: {}", place, failed.message()));
    add_event(JsonNode(value, place), trace);
  }
  HALFQUAD_REQUIRE(ended, kBadInput, fmt::format("{} is cut off: its last line is missing", quoted(name)));
  return trace;
}

/// "worker 3" -> {"worker", 3}.
std::pair<std::string, std::int64_t> kind_and_number(const std::string& name) {
  const std::size_t space = name.find_last_of(' ');
  std::int64_t number = 0;
  if (space == std::string::npos || space + 1 == name.size() || name.size() - space > 10) return {name, 0};
  for (std::size_t i = space + 1; i < name.size(); ++i) {
    if (name[i] < '0' || name[i] > '9') return {name, 0};
    number = number * 10 + (name[i] - '0');
  }
  return {name.substr(0, space), number};
}

/// Which row a lane is part of, in the order that rows are shown in: ranks in blocks, kind, number.
using RowKey = std::tuple<std::int64_t, std::string, std::int64_t>;

struct Rows {
  std::int64_t ranks_together = 1;
  bool each_lane = true;

  [[nodiscard]] RowKey key_of(const Lane& lane) const {
    auto [kind, number] = kind_and_number(lane.name);
    return {lane.rank / ranks_together, std::move(kind), each_lane ? number : 0};
  }
  [[nodiscard]] std::size_t count(const Trace& trace) const {
    std::map<RowKey, bool> keys;
    for (const auto& [id, lane] : trace.lanes) keys[key_of(lane)] = true;
    return keys.size();
  }
};

Rows rows_for(const Trace& trace, std::size_t most) {
  Rows rows;
  if (rows.count(trace) <= most) return rows;
  rows.each_lane = false;
  std::int64_t last = 0;
  for (const auto& [id, lane] : trace.lanes) last = std::max(last, lane.rank);
  while (rows.count(trace) > most && rows.ranks_together <= last) rows.ranks_together *= 2;
  return rows;
}

std::string row_name(const Rows& rows, const RowKey& key, std::size_t lanes, std::int64_t last_rank) {
  const auto& [block, kind, number] = key;
  const std::int64_t first = block * rows.ranks_together;
  const std::int64_t last = std::min(last_rank, first + rows.ranks_together - 1);
  const std::string ranks = first == last ? fmt::format("rank {}", first) : fmt::format("ranks {} to {}", first, last);
  if (rows.each_lane) return fmt::format("{}, {} {}", ranks, kind, number);
  return fmt::format("{}, {} {}{}", ranks, lanes, kind, lanes == 1 ? "" : "s");
}

/// Spreads an event over the slices that it lies in.
void add_to_row(TimeRow& row, const Event& event, double slice) {
  std::vector<float>& parts = row.parts[static_cast<std::size_t>(event.activity)];
  row.seconds[static_cast<std::size_t>(event.activity)] += (event.end - event.begin) * kMicro;
  const auto last = static_cast<double>(parts.size() - 1);
  const auto from = static_cast<std::size_t>(std::clamp(std::floor(event.begin / slice), 0.0, last));
  const auto to = static_cast<std::size_t>(std::clamp(std::floor(event.end / slice), 0.0, last));
  for (std::size_t i = from; i <= to; ++i) {
    const double begin = std::max(event.begin, static_cast<double>(i) * slice);
    const double end = std::min(event.end, static_cast<double>(i + 1) * slice);
    if (end > begin) parts[i] += static_cast<float>((end - begin) / slice / static_cast<double>(row.lanes));
  }
}

}  // namespace

std::string_view name_of(Activity activity) noexcept {
  switch (activity) {
    case Activity::kRead:
      return "read";
    case Activity::kSolve:
      return "solve";
    case Activity::kWrite:
      return "write";
    case Activity::kOther:
      return "other";
  }
  return "other";
}

double TimeRow::wait_seconds(double job_seconds) const noexcept {
  double wait = job_seconds * static_cast<double>(lanes);
  for (const double busy : seconds) wait -= busy;
  return std::max(wait, 0.0);
}

TimeLine parse_time_line(std::string_view text, const std::string& name, const TimeLineOptions& options) {
  const Trace trace = parse_lines(text, name);
  TimeLine line;
  line.slices = options.slices;
  line.lanes = trace.lanes.size();
  std::int64_t last_rank = 0;
  std::map<std::int64_t, bool> ranks;
  for (const auto& [id, lane] : trace.lanes) {
    ranks[lane.rank] = true;
    last_rank = std::max(last_rank, lane.rank);
  }
  line.ranks = ranks.size();
  double end = 0;
  for (const Event& event : trace.events) end = std::max(end, event.end);
  line.seconds = end * kMicro;
  const double slice = std::max(end, 1.0) / static_cast<double>(options.slices);

  const Rows rows = rows_for(trace, options.most_rows);
  std::map<RowKey, TimeRow> made;
  for (const auto& [id, lane] : trace.lanes) ++made[rows.key_of(lane)].lanes;
  for (auto& [key, row] : made) {
    row.name = row_name(rows, key, row.lanes, last_rank);
    for (std::vector<float>& parts : row.parts) parts.resize(options.slices);
  }
  for (const Event& event : trace.events) add_to_row(made.at(rows.key_of(trace.lanes.at(event.lane))), event, slice);
  for (auto& [key, row] : made) line.rows.push_back(std::move(row));
  return line;
}

}  // namespace halfquad
