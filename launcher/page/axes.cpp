#include "launcher/page/axes.h"

#include <algorithm>

#include "launcher/page/html.h"

namespace halfquad::page {
namespace {

double step_of(const std::vector<double>& ticks) { return ticks.size() < 2 ? 1 : ticks[1] - ticks[0]; }

}  // namespace

double label_margin(const std::vector<std::string>& labels) {
  std::size_t longest = 0;
  for (const std::string& label : labels) longest = std::max(longest, characters(shortened(label, kMostLabel)));
  return static_cast<double>(longest) * kLabelCharacter + 14;
}

void Plot::draw_y_axis(Svg& svg, const LinearScale& y, const std::vector<double>& ticks,
                       const std::string& title) const {
  for (const double tick : ticks) {
    svg.line({left(), y(tick), plot_width(), 0}, tick == 0 ? "axis" : "grid");
    svg.text({left() - 8, y(tick) + 4, Svg::Anchor::kEnd}, "tick", tick_text(tick, step_of(ticks)));
  }
  svg.upward_text(12, (top() + bottom()) / 2, "title", title);
}

void Plot::draw_x_axis(Svg& svg, const LinearScale& x, const std::vector<double>& ticks,
                       const std::string& title) const {
  svg.line({left(), bottom(), plot_width(), 0}, "axis");
  for (const double tick : ticks) {
    svg.line({x(tick), bottom(), 0, 5}, "axis");
    svg.text({x(tick), bottom() + 18, Svg::Anchor::kMiddle}, "tick", tick_text(tick, step_of(ticks)));
  }
  draw_x_title(svg, title);
}

void Plot::draw_names(Svg& svg, const std::vector<std::string>& names, double step, const std::string& title) const {
  std::size_t longest = 1;
  for (const std::string& name : names) longest = std::max(longest, characters(name));
  // Every first, second, fifth, tenth, ...: numbers that a reader goes on with.
  const double room = static_cast<double>(longest) * kLabelCharacter + 6;
  const auto every = static_cast<std::size_t>(std::max(1.0, nice_step(room / step, 1)));
  for (std::size_t i = 0; i < names.size(); i += every) {
    svg.text({left() + step * (static_cast<double>(i) + 0.5), bottom() + 18, Svg::Anchor::kMiddle}, "tick", names[i]);
  }
  draw_x_title(svg, title);
}

void Plot::draw_x_title(Svg& svg, const std::string& title) const {
  svg.text({left() + plot_width() / 2, bottom() + 36, Svg::Anchor::kMiddle}, "title", title);
}

}  // namespace halfquad::page
