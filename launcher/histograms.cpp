#include "launcher/histograms.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include <boost/json/object.hpp>
#include <fmt/format.h>

#include "launcher/table.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::size_t kMostLines = 32;
constexpr std::uint64_t kBarLength = 50;

std::string bars(const std::vector<std::uint64_t>& counts) {
  const std::size_t together = (counts.size() + kMostLines - 1) / kMostLines;
  std::vector<std::uint64_t> lines((counts.size() + together - 1) / together);
  for (std::size_t code = 0; code < counts.size(); ++code) lines[code / together] += counts[code];
  const std::uint64_t total = std::accumulate(lines.begin(), lines.end(), std::uint64_t{0});
  const std::uint64_t most = std::max<std::uint64_t>(1, *std::ranges::max_element(lines));
  Table table("rrrl", {});
  for (std::size_t line = 0; line < lines.size(); ++line) {
    const std::size_t first = line * together;
    const std::size_t last = std::min(counts.size(), first + together) - 1;
    table.add_row({first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last),
                   fmt::format("{}", lines[line]),
                   fmt::format("{:.2f} %", 100 * static_cast<double>(lines[line]) /
                                               static_cast<double>(std::max<std::uint64_t>(1, total))),
                   std::string(static_cast<std::size_t>(lines[line] * kBarLength / most), '#')});
  }
  return table.text(2);
}

}  // namespace

std::string histograms_text(const QuantizedModel& output, std::span<const CodeHistogram> histograms) {
  std::string text;
  for (const CodeHistogram& histogram : histograms) {
    const StoredLayer& layer = output.layers()[histogram.layer];
    text += fmt::format("\n{}: {} bit, scales {:.4g} to {:.4g}, zeros {:.4g} to {:.4g}\n", quoted(layer.module),
                        name_of(layer.spec.width), histogram.least_scale, histogram.most_scale, histogram.least_zero,
                        histogram.most_zero);
    text += bars(histogram.counts);
  }
  return text;
}

boost::json::array histograms_json(const QuantizedModel& output, std::span<const CodeHistogram> histograms) {
  boost::json::array array;
  for (const CodeHistogram& histogram : histograms) {
    const auto range = [](float least, float most) {
      return boost::json::array{static_cast<double>(least), static_cast<double>(most)};
    };
    array.push_back({{"module", output.layers()[histogram.layer].module},
                     {"counts", boost::json::array(histogram.counts.begin(), histogram.counts.end())},
                     {"scales", range(histogram.least_scale, histogram.most_scale)},
                     {"zeros", range(histogram.least_zero, histogram.most_zero)}});
  }
  return array;
}

}  // namespace halfquad
