#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>

#include <fmt/format.h>

#include "launcher/page/axes.h"
#include "launcher/page/charts.h"
#include "launcher/page/html.h"
#include "launcher/page/scale.h"
#include "launcher/page/svg.h"

namespace halfquad::page {
namespace {

constexpr double kCellHeight = 24;
constexpr double kLeastCell = 5, kMostCell = 96;
constexpr double kCellWithText = 38;
constexpr double kLaneHeight = 16, kLaneGap = 6;
constexpr double kSteps = 20;  // heights of a lane that are told apart

/// Height of each activity in each slice, in steps; runs of equal slices become one box.
std::string activity_path(const TimeRow& row, std::size_t activity, double left, double slice_width, double bottom) {
  const std::size_t slices = row.parts[activity].size();
  const auto height_to = [&](std::size_t slice, std::size_t end) {
    double sum = 0;
    for (std::size_t i = 0; i < end; ++i) sum += static_cast<double>(row.parts[i][slice]);
    return std::round(std::min(sum, 1.0) * kSteps);
  };
  std::string path;
  for (std::size_t i = 0; i < slices;) {
    const double base = height_to(i, activity);
    const double top = height_to(i, activity + 1);
    std::size_t end = i + 1;
    while (end < slices && height_to(end, activity) == base && height_to(end, activity + 1) == top) ++end;
    if (top > base) {
      const double scale = kLaneHeight / kSteps;
      path += fmt::format("M{} {}h{}v{}h-{}z", pixel(left + slice_width * static_cast<double>(i)),
                          pixel(bottom - base * scale), pixel(slice_width * static_cast<double>(end - i)),
                          pixel(-(top - base) * scale), pixel(slice_width * static_cast<double>(end - i)));
    }
    i = end;
  }
  return path;
}

}  // namespace

std::string heat_map(const HeatMap& map) {
  const double left = label_margin(map.rows);
  const auto columns = static_cast<double>(std::max<std::size_t>(1, map.columns.size()));
  const double cell = std::clamp((kChartWidth - left - 4) / columns, kLeastCell, kMostCell);
  const Plot plot({.width = left + cell * columns + 4,
                   .plot_height = kCellHeight * static_cast<double>(map.rows.size()),
                   .left = left,
                   .right = 4,
                   .top = 2});
  Svg svg(std::max(plot.width(), left + 160), plot.height(), map.label);
  const double gap = cell >= 12 ? 2 : cell >= 8 ? 1 : 0.5;
  for (std::size_t row = 0; row < map.rows.size(); ++row) {
    const double y = plot.top() + kCellHeight * static_cast<double>(row);
    svg.text({left - 10, y + kCellHeight / 2 + 4, Svg::Anchor::kEnd}, "name", shortened(map.rows[row], kMostLabel));
    for (std::size_t column = 0; column < map.columns.size(); ++column) {
      const auto& found = map.cells[row * map.columns.size() + column];
      if (!found) continue;
      const double x = left + cell * static_cast<double>(column);
      svg.rect({x, y, cell - gap, kCellHeight - std::max(gap, 1.0)}, found->css_class, found->tip);
      if (cell >= kCellWithText) {
        svg.text({x + (cell - gap) / 2, y + kCellHeight / 2 + 3, Svg::Anchor::kMiddle}, found->css_class + " in",
                 found->text);
      }
    }
  }
  plot.draw_names(svg, map.columns, cell, map.column_title);
  return std::move(svg).finish();
}

std::string time_line_chart(const TimeLine& line, const std::string& label) {
  constexpr std::array<std::string_view, kActivities> kClasses = {"read", "solve", "write", "other"};
  std::vector<std::string> names;
  for (const TimeRow& row : line.rows) names.push_back(row.name);
  const double left = label_margin(names);
  const Plot plot({.width = kChartWidth,
                   .plot_height = (kLaneHeight + kLaneGap) * static_cast<double>(line.rows.size()),
                   .left = left,
                   .right = 20,
                   .top = 4});
  Svg svg(plot.width(), plot.height(), label);
  const double slice = plot.plot_width() / static_cast<double>(std::max<std::size_t>(1, line.slices));
  for (std::size_t i = 0; i < line.rows.size(); ++i) {
    const TimeRow& row = line.rows[i];
    const double y = plot.top() + (kLaneHeight + kLaneGap) * static_cast<double>(i);
    svg.text({left - 10, y + kLaneHeight - 4, Svg::Anchor::kEnd}, "name", shortened(row.name, kMostLabel));
    svg.rect({left, y, plot.plot_width(), kLaneHeight}, "wait");
    for (std::size_t activity = 0; activity < kActivities; ++activity) {
      const std::string path = activity_path(row, activity, left, slice, y + kLaneHeight);
      if (!path.empty()) svg.path(path, kClasses[activity]);
    }
  }
  const LinearScale x({0, line.seconds}, {plot.left(), plot.right()});
  plot.draw_x_axis(svg, x, nice_ticks(0, line.seconds, 10), "seconds");
  return std::move(svg).finish();
}

}  // namespace halfquad::page
