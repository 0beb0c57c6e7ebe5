#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "launcher/page/axes.h"
#include "launcher/page/charts.h"
#include "launcher/page/html.h"
#include "launcher/page/scale.h"
#include "launcher/page/svg.h"

namespace halfquad::page {
namespace {

constexpr double kPlotHeight = 230;
constexpr double kMarkRadius = 3, kPointRadius = 5;
constexpr std::size_t kMostMarks = 40;  // more would hide the line

struct Extent {
  double low = 0, high = 0;
  bool empty = true;

  void add(double value) {
    low = empty ? value : std::min(low, value);
    high = empty ? value : std::max(high, value);
    empty = false;
  }
};

/// Each series has a mark of its own shape, so that colors are not all that tells them apart.
void draw_mark(Svg& svg, double x, double y, double r, std::size_t series) {
  const std::string css_class = fmt::format("mark s{}", series);
  const auto at = [&](double dx, double dy) { return fmt::format("{} {}", pixel(x + dx), pixel(y + dy)); };
  switch (series % 4) {
    case 0:
      return svg.circle(x, y, r, css_class);
    case 1:
      return svg.rect({x - r, y - r, 2 * r, 2 * r}, css_class);
    case 2:
      return svg.path(fmt::format("M{}L{}L{}Z", at(0, -r - 1), at(r + 1, r), at(-r - 1, r)), css_class);
    default:
      return svg.path(fmt::format("M{}L{}L{}L{}Z", at(0, -r - 1.5), at(r + 1.5, 0), at(0, r + 1.5), at(-r - 1.5, 0)),
                      css_class);
  }
}

void draw_series(Svg& svg, const LineChart::Points& points, std::size_t series, const LinearScale& x,
                 const LinearScale& y) {
  std::string path;
  for (const auto& [px, py] : points) {
    path += fmt::format("{}{} {}", path.empty() ? "M" : "L", pixel(x(px)), pixel(y(py)));
  }
  if (points.size() > 1) svg.path(path, fmt::format("line s{}", series));
  if (points.size() > kMostMarks) return;
  for (const auto& [px, py] : points) draw_mark(svg, x(px), y(py), kMarkRadius, series);
}

}  // namespace

std::string line_chart(const LineChart& chart) {
  const Plot plot({.width = kChartWidth, .plot_height = kPlotHeight, .left = 72, .right = 16});
  Extent wide, tall;
  tall.add(0);
  for (const LineChart::Points& points : chart.series) {
    for (const auto& [x, y] : points) {
      wide.add(x);
      tall.add(y);
    }
  }
  const std::vector<double> ticks = covering_ticks(tall.high, 7);
  const LinearScale x({wide.low, wide.high}, {plot.left() + 8, plot.right() - 8});
  const LinearScale y({0, ticks.back()}, {plot.bottom(), plot.top()});
  Svg svg(plot.width(), plot.height(), chart.label);
  plot.draw_y_axis(svg, y, ticks, chart.y_title);
  std::vector<double> layers = nice_ticks(wide.low, wide.high, 16);
  std::erase_if(layers, [](double tick) { return tick != std::round(tick); });  // layers have whole numbers
  plot.draw_x_axis(svg, x, layers, chart.x_title);
  for (std::size_t i = 0; i < chart.series.size(); ++i) draw_series(svg, chart.series[i], i, x, y);
  return std::move(svg).finish();
}

std::string series_entry(std::size_t series, const std::string& name) {
  Svg svg(34, 14, name);
  draw_series(svg, {{2, 7}, {32, 7}}, series, LinearScale({0, 34}, {0, 34}), LinearScale({0, 14}, {0, 14}));
  return legend_entry_of(std::move(svg).finish(), name);
}

std::string scatter_chart(const ScatterChart& chart) {
  const Plot plot({.width = kChartWidth, .plot_height = kPlotHeight, .left = 72, .right = 16});
  Extent wide, tall;
  tall.add(0);
  for (const ScatterChart::Point& point : chart.points) {
    wide.add(point.x);
    tall.add(point.y);
  }
  const double margin = wide.high > wide.low ? (wide.high - wide.low) * 0.12 : std::max(1.0, wide.high * 0.1);
  const LinearScale::Span domain{std::max(0.0, wide.low - margin), wide.high + margin};
  const std::vector<double> ticks = covering_ticks(tall.high, 7);
  const LinearScale x(domain, {plot.left(), plot.right()});
  const LinearScale y({0, ticks.back()}, {plot.bottom(), plot.top()});
  Svg svg(plot.width(), plot.height(), chart.label);
  plot.draw_y_axis(svg, y, ticks, chart.y_title);
  plot.draw_x_axis(svg, x, nice_ticks(domain.from, domain.to, 10), chart.x_title);
  for (std::size_t i = 0; i < chart.points.size(); ++i) {
    const ScatterChart::Point& point = chart.points[i];
    draw_mark(svg, x(point.x), y(point.y), kPointRadius, i);
    const bool on_left = x(point.x) > (plot.left() + plot.right()) / 2;
    svg.text({x(point.x) + (on_left ? -12 : 12), y(point.y) + 4, on_left ? Svg::Anchor::kEnd : Svg::Anchor::kStart},
             "value", shortened(point.name, kMostLabel));
  }
  return std::move(svg).finish();
}

}  // namespace halfquad::page
