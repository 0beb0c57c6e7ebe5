#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/time_line.h"
#include "sharding/value_histogram.h"

namespace halfquad::page {

/// All charts are pure functions from figures to SVG. Labels and tips are plain text.
inline constexpr double kChartWidth = 920;
/// Of a chart for telephones.
inline constexpr double kNarrowWidth = 320;

/// Bars whose parts follow each other from the left.
struct StackedBars {
  struct Part {
    std::string css_class;
    double value = 0;
    std::string tip;
  };
  struct Row {
    std::string label;
    std::vector<Part> parts;
    std::string total;  ///< Written behind the bar.
  };
  std::string label;
  std::vector<Row> rows;
};
/// Twice, for wide and for narrow pages; the style shows one of them.
[[nodiscard]] std::string stacked_bars(const StackedBars& bars);

/// A grid of colored cells.
struct HeatMap {
  struct Cell {
    std::string css_class;
    std::string text;  ///< In the cell, where there is room.
    std::string tip;
  };
  std::string label;
  std::vector<std::string> rows, columns;
  std::string column_title;
  std::vector<std::optional<Cell>> cells;  ///< Row after row; nothing: an empty place.
};
[[nodiscard]] std::string heat_map(const HeatMap& map);

/// Columns from 0 upwards, one for each name.
struct ColumnChart {
  std::string label;
  std::vector<std::string> names;
  std::vector<double> values;
  std::vector<std::string> tips;
  std::string x_title, y_title;
};
[[nodiscard]] std::string column_chart(const ColumnChart& chart);

/// Lines through points, each with a color, a dash pattern and marks of its own (classes s0, s1, ...).
struct LineChart {
  using Points = std::vector<std::pair<double, double>>;
  std::string label;
  std::vector<Points> series;
  std::string x_title, y_title;
};
[[nodiscard]] std::string line_chart(const LineChart& chart);
/// An entry of the legend for series number `series`.
[[nodiscard]] std::string series_entry(std::size_t series, const std::string& name);

/// Points with names beside them.
struct ScatterChart {
  struct Point {
    double x = 0, y = 0;
    std::string name;
  };
  std::string label;
  std::vector<Point> points;
  std::string x_title, y_title;
};
[[nodiscard]] std::string scatter_chart(const ScatterChart& chart);

/// Counts in bins; a second distribution over the same bins is drawn as an outline.
struct HistogramChart {
  std::string label;
  ValueHistogram::View bins;
  std::optional<ValueHistogram::View> outline;
  std::string x_title;
};
inline constexpr double kHistogramWidth = 440;
[[nodiscard]] std::string histogram_chart(const HistogramChart& chart);

/// What threads did over time (classes read, solve, write, other).
[[nodiscard]] std::string time_line_chart(const TimeLine& line, const std::string& label);

}  // namespace halfquad::page
