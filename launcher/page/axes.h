#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "launcher/page/scale.h"
#include "launcher/page/svg.h"

namespace halfquad::page {

/// Characters of a label beside a chart; longer ones are shortened.
inline constexpr std::size_t kMostLabel = 34;
/// Pixels that labels on the left take, their distance from the chart included.
[[nodiscard]] double label_margin(const std::vector<std::string>& labels);

/// The rectangle of a chart inside its axes, and these.
class Plot {
 public:
  struct Size {
    double width = 0, plot_height = 0;
    double left = 0;  ///< Room for the labels of the y axis.
    double right = 12, top = 10;
  };
  explicit Plot(const Size& size) : size_(size) {}

  [[nodiscard]] double width() const noexcept { return size_.width; }
  [[nodiscard]] double height() const noexcept { return bottom() + kBelow; }
  [[nodiscard]] double left() const noexcept { return size_.left; }
  [[nodiscard]] double right() const noexcept { return size_.width - size_.right; }
  [[nodiscard]] double top() const noexcept { return size_.top; }
  [[nodiscard]] double bottom() const noexcept { return size_.top + size_.plot_height; }
  [[nodiscard]] double plot_width() const noexcept { return right() - left(); }

  /// Grid lines and labels at `ticks`, which are evenly spaced.
  void draw_y_axis(Svg& svg, const LinearScale& y, const std::vector<double>& ticks, const std::string& title) const;
  void draw_x_axis(Svg& svg, const LinearScale& x, const std::vector<double>& ticks, const std::string& title) const;
  /// Names below columns of `step` pixels, as many as do not touch.
  void draw_names(Svg& svg, const std::vector<std::string>& names, double step, const std::string& title) const;

 private:
  static constexpr double kBelow = 42;  // labels and title of the x axis

  void draw_x_title(Svg& svg, const std::string& title) const;

  Size size_;
};

}  // namespace halfquad::page
