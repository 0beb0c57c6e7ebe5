#include <algorithm>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

#include "launcher/page/axes.h"
#include "launcher/page/charts.h"
#include "launcher/page/html.h"
#include "launcher/page/scale.h"
#include "launcher/page/svg.h"

namespace halfquad::page {
namespace {

constexpr double kBarHeight = 26, kBarGap = 12;
constexpr double kColumnPlotHeight = 170, kMostColumn = 64;
constexpr double kHistogramPlotHeight = 130;

/// "M x,y" and on along the tops of the bins.
std::string outline_of(const ValueHistogram::View& bins, const LinearScale& x, const LinearScale& y) {
  std::string path;
  for (std::size_t i = 0; i < bins.counts.size(); ++i) {
    const double left = x(bins.low + static_cast<double>(i) * bins.width);
    const double right = x(bins.low + static_cast<double>(i + 1) * bins.width);
    const double top = y(static_cast<double>(bins.counts[i]));
    path += fmt::format("{}{} {}H{}", i == 0 ? "M" : "L", pixel(left), pixel(top), pixel(right));
  }
  return path;
}

}  // namespace

namespace {

std::string stacked_bars(const StackedBars& bars, double width) {
  double most = 0;
  std::size_t longest_total = 0;
  std::vector<std::string> labels;
  for (const StackedBars::Row& row : bars.rows) {
    double sum = 0;
    for (const StackedBars::Part& part : row.parts) sum += part.value;
    most = std::max(most, sum);
    longest_total = std::max(longest_total, characters(row.total));
    labels.push_back(row.label);
  }
  const double left = label_margin(labels);
  const double right = width - static_cast<double>(longest_total) * kLabelCharacter - 14;
  const LinearScale x({0, most > 0 ? most : 1}, {left, right});
  const auto rows = static_cast<double>(bars.rows.size());
  Svg svg(width, rows * (kBarHeight + kBarGap), bars.label);
  double y = kBarGap / 2;
  for (const StackedBars::Row& row : bars.rows) {
    svg.text({left - 10, y + kBarHeight / 2 + 4, Svg::Anchor::kEnd}, "name", shortened(row.label, kMostLabel));
    double at = 0;
    for (const StackedBars::Part& part : row.parts) {
      // A gap of a pixel tells parts apart where colors do not.
      const double length = x(at + part.value) - x(at);
      if (part.value > 0) {
        svg.rect({x(at), y, std::max(length - 1, 0.5), kBarHeight}, part.css_class, part.tip);
      }
      at += part.value;
    }
    svg.text({x(at) + 8, y + kBarHeight / 2 + 4}, "value", row.total);
    y += kBarHeight + kBarGap;
  }
  return std::move(svg).finish();
}

}  // namespace

std::string stacked_bars(const StackedBars& bars) {
  return fmt::format("<div class=\"wide\">{}</div><div class=\"narrow\">{}</div>", stacked_bars(bars, kChartWidth),
                     stacked_bars(bars, kNarrowWidth));
}

std::string column_chart(const ColumnChart& chart) {
  const Plot plot({.width = kChartWidth, .plot_height = kColumnPlotHeight, .left = 64});
  const double most = chart.values.empty() ? 1 : *std::ranges::max_element(chart.values);
  const std::vector<double> ticks = covering_ticks(most, 6);
  const LinearScale y({0, ticks.back()}, {plot.bottom(), plot.top()});
  Svg svg(plot.width(), plot.height(), chart.label);
  plot.draw_y_axis(svg, y, ticks, chart.y_title);
  const double step = plot.plot_width() / static_cast<double>(std::max<std::size_t>(1, chart.names.size()));
  const double width = std::min(step - std::min(step * 0.2, 6.0), kMostColumn);
  for (std::size_t i = 0; i < chart.names.size(); ++i) {
    const double top = y(chart.values[i]);
    const double x = plot.left() + step * (static_cast<double>(i) + 0.5) - width / 2;
    svg.rect({x, top, width, plot.bottom() - top}, "column", chart.tips[i]);
  }
  plot.draw_names(svg, chart.names, step, chart.x_title);
  return std::move(svg).finish();
}

std::string histogram_chart(const HistogramChart& chart) {
  const ValueHistogram::View& bins = chart.bins;
  const Plot plot({.width = kHistogramWidth, .plot_height = kHistogramPlotHeight, .left = 62});
  std::uint64_t most = 1;
  for (const std::uint64_t count : bins.counts) most = std::max(most, count);
  if (chart.outline) {
    for (const std::uint64_t count : chart.outline->counts) most = std::max(most, count);
  }
  const double end = bins.low + bins.width * static_cast<double>(bins.counts.size());
  const LinearScale x({bins.low, end}, {plot.left(), plot.right()});
  const LinearScale y({0, static_cast<double>(most)}, {plot.bottom(), plot.top()});
  Svg svg(plot.width(), plot.height(), chart.label);
  plot.draw_y_axis(svg, y, nice_ticks(0, static_cast<double>(most), 4), "weights");
  const std::string path = outline_of(bins, x, y);
  svg.path(fmt::format("M{0} {1}L{2}V{1}Z", pixel(x(bins.low)), pixel(plot.bottom()), path.substr(1)), "area");
  if (chart.outline) svg.path(outline_of(*chart.outline, x, y), "outline");
  plot.draw_x_axis(svg, x, nice_ticks(bins.low, end, 6), chart.x_title);
  return std::move(svg).finish();
}

}  // namespace halfquad::page
