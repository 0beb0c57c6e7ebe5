#include "launcher/page/scale.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

namespace halfquad::page {
namespace {

constexpr double kSlack = 1e-9;  // of a step: ends that are multiples but for rounding

}  // namespace

LinearScale::LinearScale(Span domain, Span pixels) : domain_(domain), pixels_(pixels) {
  if (domain_.to > domain_.from) return;
  const double half = domain_.from == 0 ? 1 : std::abs(domain_.from) / 2;
  domain_ = {domain_.from - half, domain_.from + half};
}

double LinearScale::operator()(double value) const noexcept {
  return pixels_.from + (value - domain_.from) / (domain_.to - domain_.from) * (pixels_.to - pixels_.from);
}

double nice_step(double length, int parts) {
  const double least = length / parts;
  if (!(least > 0) || !std::isfinite(least)) return 1;
  const double power = std::pow(10.0, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0, 10.0}) {
    if (factor * power >= least * (1 - kSlack)) return factor * power;
  }
  return 10 * power;
}

std::vector<double> nice_ticks(double low, double high, int at_most) {
  // One tick more than parts, and another part for ends between ticks.
  const double step = nice_step(high - low, std::max(1, at_most - 1));
  if (!(high > low)) return {low};
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - kSlack); i * step <= high + kSlack * step; ++i) {
    if (ticks.size() > static_cast<std::size_t>(at_most)) break;  // steps lost in the numbers' precision
    ticks.push_back(i * step);
  }
  return ticks;
}

std::vector<double> covering_ticks(double high, int at_most) {
  const double step = nice_step(high, at_most - 1);
  std::vector<double> ticks = {0};
  do {
    ticks.push_back(static_cast<double>(ticks.size()) * step);
  } while (ticks.back() < high * (1 - kSlack));
  return ticks;
}

std::vector<double> class_boundaries(double low, double high, int classes) {
  double step = nice_step(high - low, classes);
  const auto count = [&] { return std::floor(high / step) - std::floor(low / step) + 1; };
  while (high > low && count() > classes) step = nice_step(step * 1.5, 1);
  std::vector<double> boundaries;
  if (!(high > low)) return boundaries;
  for (double i = std::floor(low / step) + 1; i * step <= high; ++i) {
    if (boundaries.size() + 1 >= static_cast<std::size_t>(classes)) break;  // as above
    boundaries.push_back(i * step);
  }
  return boundaries;
}

int class_of(double value, const std::vector<double>& boundaries) {
  return static_cast<int>(std::ranges::upper_bound(boundaries, value) - boundaries.begin());
}

std::string tick_text(double value, double step) {
  if (value == 0) return "0";
  if (std::abs(value) >= 1e13 || std::abs(step) < 1e-4) return fmt::format("{:.3g}", value);
  for (const auto& [unit, name] : {std::pair(1e9, 'G'), std::pair(1e6, 'M'), std::pair(1e3, 'k')}) {
    if (step >= unit / 10 && std::abs(value) >= unit)
      return fmt::format("{:.{}f}{}", value / unit, step >= unit ? 0 : 1, name);
  }
  const int decimals = step >= 1 ? 0 : static_cast<int>(std::ceil(-std::log10(step) - kSlack));
  return fmt::format("{:.{}f}", value, decimals);
}

std::string pixel(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.ends_with('0')) text.pop_back();
  if (text.ends_with('.')) text.pop_back();
  return text == "-0" ? "0" : text;
}

}  // namespace halfquad::page
