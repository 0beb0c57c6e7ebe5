#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "launcher/human_count.h"
#include "launcher/page/sections.h"
#include "runtime/text.h"

namespace halfquad::page {
namespace {

constexpr std::size_t kRanksDrawn = 16;
constexpr std::size_t kChecksumsListed = 1000;

std::string rank_name(std::size_t rank) { return fmt::format("rank {}", rank); }

/// The ranks that a chart shows: all, or those that were busy for the longest time.
std::vector<std::size_t> ranks_drawn(const std::vector<ReportedRank>& ranks) {
  std::vector<std::size_t> order(ranks.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (order.size() <= kRanksDrawn) return order;
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t i) { return ranks[i].solve_seconds; });
  order.resize(kRanksDrawn);
  return order;
}

std::string ranks_figure(const ReportFile& file) {
  StackedBars bars{.label = "Bars: seconds of the threads of each rank, by what they were spent on", .rows = {}};
  HtmlTable table("Time of each rank's threads in seconds, and what it moved", {{"rank"},
                                                                                {"host"},
                                                                                {"waiting for data", true},
                                                                                {"solving", true},
                                                                                {"writing", true},
                                                                                {"read", true},
                                                                                {"written", true},
                                                                                {"weights", true},
                                                                                {"devices"}});
  for (std::size_t i = 0; i < file.ranks.size(); ++i) {
    const ReportedRank& rank = file.ranks[i];
    std::string devices;
    for (const std::string& device : rank.devices) devices += (devices.empty() ? "" : ", ") + escaped(device);
    const auto seconds = [](double value) { return fmt::format("{:.3f}", value); };
    table.add_row({rank_name(i), code(rank.host), seconds(rank.read_wait_seconds), seconds(rank.solve_seconds),
                   seconds(rank.write_seconds), human_bytes(rank.bytes_read), human_bytes(rank.bytes_written),
                   human_count(rank.weights), devices});
  }
  const std::vector<std::size_t> drawn = ranks_drawn(file.ranks);
  for (const std::size_t i : drawn) {
    const ReportedRank& rank = file.ranks[i];
    const double sum = rank.read_wait_seconds + rank.solve_seconds + rank.write_seconds;
    bars.rows.push_back(
        {.label = rank_name(i),
         .parts = {{"read", rank.read_wait_seconds, "waiting for data: " + seconds_text(rank.read_wait_seconds)},
                   {"solve", rank.solve_seconds, "solving: " + seconds_text(rank.solve_seconds)},
                   {"write", rank.write_seconds, "writing: " + seconds_text(rank.write_seconds)}},
         .total = seconds_text(sum)});
  }
  const std::string which =
      drawn.size() < file.ranks.size()
          ? fmt::format(" The {} ranks that solved for the longest, of {}.", drawn.size(), file.ranks.size())
          : "";
  return figure({.title = "Where the time went",
                 .text = "Seconds of all threads of a rank added up; threads work side by side." + which,
                 .svg = stacked_bars(bars),
                 .legend = legend({legend_entry("read", "solvers waiting for data"), legend_entry("solve", "solving"),
                                   legend_entry("write", "writing")}),
                 .table = table.html()});
}

std::string time_line_figure(const TimeLine& line) {
  HtmlTable table(
      "Seconds of threads by what they did",
      {{"threads"}, {"reading", true}, {"solving", true}, {"writing", true}, {"other", true}, {"waiting", true}});
  for (const TimeRow& row : line.rows) {
    std::vector<std::string> cells = {escaped(row.name)};
    for (const double seconds : row.seconds) cells.push_back(fmt::format("{:.3f}", seconds));
    cells.push_back(fmt::format("{:.3f}", row.wait_seconds(line.seconds)));
    table.add_row(cells);
  }
  std::vector<std::string> activities = {legend_entry("read", "read"), legend_entry("solve", "solve"),
                                         legend_entry("write", "write"), legend_entry("wait", "wait")};
  const auto has_other = [](const TimeRow& row) { return row.seconds[static_cast<std::size_t>(Activity::kOther)] > 0; };
  if (std::ranges::any_of(line.rows, has_other)) activities.push_back(legend_entry("other", "other"));
  const bool together = line.rows.size() < line.lanes;
  return figure(
      {.title = "Time line",
       .text = fmt::format("{} threads of {} rank{} over {}.{}", line.lanes, line.ranks, line.ranks == 1 ? "" : "s",
                           seconds_text(line.seconds),
                           together ? " Threads of a kind share a row; heights are the part of them at work." : ""),
       .svg = time_line_chart(line, "Time line: what the threads of each rank did"),
       .legend = legend(activities),
       .table = table.html()});
}

std::string checksum_table(const ReportFile& file) {
  const std::size_t listed = std::min(kChecksumsListed, file.checksums.size());
  HtmlTable table(listed < file.checksums.size()
                      ? fmt::format("The first {} of {} tensors of the weight files; the report file has all", listed,
                                    file.checksums.size())
                      : fmt::format("The {} tensors of the weight files", listed),
                  {{"tensor"}, {"XXH3-64 of its blocks"}});
  for (std::size_t i = 0; i < listed; ++i) {
    table.add_row({code(file.checksums[i].tensor), code(file.checksums[i].xxh3)});
  }
  return "<details><summary>Checksums of tensors</summary>\n" + table.html() + "</details>\n";
}

std::string source_table(const ReportFile& file) {
  HtmlTable table("Files of the source", {{"file"}, {"bytes", true}, {"XXH3-64 of the header"}});
  for (const ReportFile::SourceFile& source : file.source_files) {
    table.add_row({code(source.name), fmt::format("{}", source.bytes), code(source.header_xxh3)});
  }
  return "<details><summary>Files of the source</summary>\n" + table.html() + "</details>\n";
}

}  // namespace

std::string command_html(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += fmt::format("<span>{}</span> ", escaped(shell_text({word})));
  return "<pre>" + text + "</pre>\n";
}

Section time_section(const OutputReport& output) {
  const ReportFile& file = output.file();
  const ReportFile::Totals& totals = file.totals;
  const double seconds = std::max(totals.seconds, 1e-9);
  const auto rate = [&](double amount) { return amount / seconds; };
  std::string content = facts_list(
      {{"time", seconds_text(totals.seconds)},
       {"read", fmt::format("{}, {:.2f} GB/s", human_bytes(totals.bytes_read),
                            rate(static_cast<double>(totals.bytes_read)) / 1e9)},
       {"written", fmt::format("{}, {:.2f} GB/s", human_bytes(totals.bytes_written),
                               rate(static_cast<double>(totals.bytes_written)) / 1e9)},
       {"weights", fmt::format("{:.1f} million a second", rate(static_cast<double>(totals.quantized_weights)) / 1e6)},
       {"threads", fmt::format("{} a rank ({})", totals.threads, escaped(totals.solver))},
       {"memory", fmt::format("{} resident at most; buffers may take {}", human_bytes(totals.peak_resident_bytes),
                              human_bytes(totals.memory_bytes))}});
  if (!file.ranks.empty()) content += ranks_figure(file);
  content += output.time_line ? time_line_figure(*output.time_line)
                              : "<p class=\"note\">For a time line of every thread run the job with "
                                "<code>--trace FILE</code> and give that file to <code>halfquad report</code>.</p>\n";
  return {"time", "Time", std::move(content)};
}

Section facts_section(const OutputReport& output) {
  const ReportFile& file = output.file();
  std::vector<std::pair<std::string, std::string>> facts = {
      {"halfquad", escaped(file.version)},
      {"source", code(file.source_path)},
      {"output", code(file.output)},
      {"format", file.format.empty() ? "not in the report of this version" : escaped(file.format)},
      {"scales", escaped(file.scale_dtype)},
      {"NaN and infinities", escaped(file.nonfinite)}};
  if (!file.assembly.empty()) {
    facts.emplace_back("assembly", fmt::format("{}, {} weight file{}", escaped(file.assembly), file.files,
                                               file.files == 1 ? "" : "s"));
  }
  if (file.converted) {
    facts.emplace_back("converted from", fmt::format("{} {}: {} layers exact, {} changed",
                                                     escaped(file.converted->format), code(file.converted->path),
                                                     file.converted->exact_layers, file.converted->changed_layers));
  }
  facts.emplace_back("fingerprint", code(output.view.fingerprint) + " of all tensors' names and checksums");
  std::string content = "<h3>Command</h3>\n" + command_html(file.command) + facts_list(facts);
  content += source_table(file) + checksum_table(file);
  return {"facts", "Where it comes from", std::move(content)};
}

Section definitions_section() {
  return {
      "definitions", "What the figures mean",
      facts_list({{"relative error",
                   "‖W − Ŵ‖ / ‖W‖: the root of the sum of the squared errors over that of the "
                   "squared weights. Not defined where all weights are 0 and an error is not."},
                  {"weighted",
                   "the same with each squared error and weight times the importance of its column, by which the "
                   "layer was solved. Only where columns have one."},
                  {"of several layers",
                   "the root of the mean of their squared relative errors, each counting by its weights. The error of "
                   "the whole output is not such a mean, but that of all weights together."},
                  {"SQNR",
                   "signal to quantization noise ratio, 10 log₁₀(Σ w² / Σ (w − ŵ)²), in decibels. Not "
                   "defined where either sum is 0."},
                  {"mean, largest error", "of |w − ŵ|, in units of the weights"},
                  {"bits per weight",
                   "codes, scales and zeros of the quantized layers over their weights; what was "
                   "kept as it is does not count"},
                  {"Ŵ", "the weights that the stored codes, scales and zeros stand for"}}) +
          "<p>Errors are those of the weights. What they do to a model's answers has to be measured with the "
          "model.</p>\n"};
}

}  // namespace halfquad::page
