#include "launcher/job_status.h"

#include <string_view>
#include <utility>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/exit_code.h"
#include "launcher/version.h"
#include "runtime/json_text.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

std::string text_of(const std::string& text) { return is_utf8(text) ? text : quoted(text); }

json::value nullable(const std::optional<double>& value) { return value ? json::value(*value) : json::value(nullptr); }

json::array ranks_json(const std::vector<RankProgress>& ranks) {
  json::array all;
  for (const RankProgress& rank : ranks) {
    all.push_back({{"rank", rank.rank},
                   {"host", text_of(rank.host)},
                   {"source_bytes_done", rank.source_bytes_done},
                   {"bytes_read", rank.bytes_read},
                   {"bytes_written", rank.bytes_written},
                   {"weights_done", rank.weights_done},
                   {"silent_seconds", rank.silent_seconds},
                   {"ended", rank.ended}});
  }
  return all;
}

json::value slowest_json(const std::vector<RankProgress>& ranks) {
  const std::optional<SlowestRank> slowest = slowest_rank(ranks);
  if (!slowest) return nullptr;
  return json::object{{"rank", slowest->rank}, {"host", text_of(slowest->host)}, {"of_median", slowest->of_median}};
}

/// Metrics of one job, one family after the other.
class Exposition {
 public:
  explicit Exposition(std::string labels) : labels_(std::move(labels)) {}

  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    text_ += fmt::format("# HELP halfquad_{0} {1}\n# TYPE halfquad_{0} {2}\n", name, help, type);
  }
  /// `more`: labels beside the job's, each with a comma before it.
  template <class Number>
  void sample(Number value, const std::string& more = {}) {
    text_ += fmt::format("halfquad_{}{{{}{}}} {}\n", name_, labels_, more, value);
  }
  template <class Number>
  void single(std::string_view name, std::string_view type, std::string_view help, Number value) {
    family(name, type, help);
    sample(value);
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  std::string labels_, name_, text_;
};

/// As a label's value stands between quotes.
std::string escaped(const std::string& value) {
  std::string out;
  for (const char c : text_of(value)) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

double unix_seconds(std::int64_t microseconds) { return static_cast<double>(microseconds) / 1e6; }

void add_job(Exposition& out, const JobStatus& status) {
  out.family("job_info", "gauge", "What the job is; always 1.");
  out.sample(1, fmt::format(",command=\"{}\",host=\"{}\",version=\"{}\"", escaped(status.command), escaped(status.host),
                            HALFQUAD_VERSION));
  out.single("job_running", "gauge", "1 while the job runs, 0 once it has ended.", status.end ? 0 : 1);
  if (status.end && status.end->exit_code) {
    out.single("job_exit_code", "gauge", "The exit code that the job ended with; 75: run it again.",
               *status.end->exit_code);
  }
  out.single("job_start_time_seconds", "gauge", "When the job started, in seconds since the Unix epoch.",
             fmt::format("{:.3f}", unix_seconds(status.started_us)));
  out.single("job_update_time_seconds", "gauge", "When these figures were written, in seconds since the Unix epoch.",
             fmt::format("{:.3f}", unix_seconds(status.updated_us)));
  out.single("job_warnings_total", "counter", "Warnings that the job has given.", status.warnings);
}

void add_progress(Exposition& out, const JobStatus& status) {
  const ProgressSnapshot& now = status.progress;
  out.single("job_progress_ratio", "gauge", "Part of the source whose output is written, from 0 to 1.",
             fmt::format("{:.6f}", status.fraction()));
  if (now.eta_seconds) {
    out.single("job_remaining_seconds", "gauge", "Predicted time until the weights are done.",
               fmt::format("{:.3f}", *now.eta_seconds));
  }
  out.single("job_source_bytes", "gauge", "Bytes of the source that the job works through.", now.totals.source_bytes);
  out.single("job_weights", "gauge", "Weights that the job solves.", now.totals.weights);
  out.single("job_tensors", "gauge", "Tensors of the source.", now.totals.tensors);
  out.single("processed_source_bytes_total", "counter",
             "Bytes of the source whose output is written, by earlier runs of the job included.",
             now.source_bytes_done);
  out.single("read_bytes_total", "counter", "Bytes read from the source.", now.bytes_read);
  out.single("written_bytes_total", "counter", "Bytes of results written.", now.bytes_written);
  out.single("solved_weights_total", "counter", "Weights solved.", now.weights_done);
  out.single("finished_tensors_total", "counter", "Tensors that are complete.", now.tensors_done);
}

void add_ranks(Exposition& out, const std::vector<RankProgress>& ranks) {
  if (ranks.empty()) return;
  const auto each = [&](std::string_view name, std::string_view type, std::string_view help, auto value) {
    out.family(name, type, help);
    for (const RankProgress& rank : ranks) {
      out.sample(value(rank), fmt::format(",rank=\"{}\",host=\"{}\"", rank.rank, escaped(rank.host)));
    }
  };
  each("rank_processed_source_bytes_total", "counter", "Bytes of the source whose output is written, of one rank.",
       [](const RankProgress& rank) { return rank.source_bytes_done; });
  each("rank_read_bytes_total", "counter", "Bytes read from the source by one rank.",
       [](const RankProgress& rank) { return rank.bytes_read; });
  each("rank_written_bytes_total", "counter", "Bytes of results written by one rank.",
       [](const RankProgress& rank) { return rank.bytes_written; });
  each("rank_solved_weights_total", "counter", "Weights solved by one rank.",
       [](const RankProgress& rank) { return rank.weights_done; });
  each("rank_silence_seconds", "gauge", "Time since rank 0 last heard of a rank.",
       [](const RankProgress& rank) { return fmt::format("{:.3f}", rank.silent_seconds); });
}

}  // namespace

std::string_view JobStatus::state() const noexcept {
  if (!end) return "running";
  if (end->exit_code == kExitDone) return "done";
  return end->exit_code == kExitInterrupted ? "interrupted" : "failed";
}

double JobStatus::fraction() const noexcept {
  const bool known = progress.totals.source_bytes > 0 || progress.totals.tensors > 0 || state() == "done";
  return known ? progress.fraction() : 0;
}

json::object status_json(const JobStatus& status) {
  json::array arguments;
  for (const std::string& word : status.arguments) arguments.emplace_back(text_of(word));
  const ProgressSnapshot& now = status.progress;
  const bool ended = status.end.has_value();
  return {
      {"format", "halfquad-status"},
      {"version", 1},
      {"halfquad", HALFQUAD_VERSION},
      {"command", std::move(arguments)},
      {"output", text_of(status.output)},
      {"host", text_of(status.host)},
      {"pid", status.pid},
      {"started", utc_time(status.started_us)},
      {"updated", utc_time(status.updated_us)},
      {"state", status.state()},
      {"phase", status.phase},
      {"exit_code", ended && status.end->exit_code ? json::value(*status.end->exit_code) : json::value(nullptr)},
      {"error", ended && !status.end->error.empty() ? json::value(text_of(status.end->error)) : json::value(nullptr)},
      {"warnings", status.warnings},
      {"seconds", now.seconds},
      {"fraction", status.fraction()},
      {"eta_seconds", ended ? json::value(nullptr) : nullable(now.eta_seconds)},
      {"done",
       {{"source_bytes", now.source_bytes_done},
        {"source_bytes_by_earlier_runs", now.source_bytes_before},
        {"weights", now.weights_done},
        {"tensors", now.tensors_done},
        {"bytes_read", now.bytes_read},
        {"bytes_written", now.bytes_written}}},
      {"total",
       {{"source_bytes", now.totals.source_bytes}, {"weights", now.totals.weights}, {"tensors", now.totals.tensors}}},
      {"slowest_rank", slowest_json(now.ranks)},
      {"ranks", ranks_json(now.ranks)},
  };
}

std::string status_metrics(const JobStatus& status) {
  Exposition out(fmt::format("output=\"{}\"", escaped(status.output)));
  add_job(out, status);
  add_progress(out, status);
  add_ranks(out, status.progress.ranks);
  return out.take();
}

}  // namespace halfquad
