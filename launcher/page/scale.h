#pragma once

#include <string>
#include <vector>

namespace halfquad::page {

/// A linear axis: values of a domain to pixels.
class LinearScale {
 public:
  struct Span {
    double from = 0, to = 1;
  };
  /// A domain without length is widened around its value.
  LinearScale(Span domain, Span pixels);
  [[nodiscard]] double operator()(double value) const noexcept;
  [[nodiscard]] const Span& domain() const noexcept { return domain_; }

 private:
  Span domain_, pixels_;
};

/// 1, 2 or 5 times a power of ten: the smallest that divides `length` into at most `parts`. 1 for no length.
[[nodiscard]] double nice_step(double length, int parts);

/// Multiples of a nice step from `low` to `high`, both ends within.
[[nodiscard]] std::vector<double> nice_ticks(double low, double high, int at_most);

/// Multiples of a nice step from 0 to `high` or the next one above it. @pre Finite and not negative.
[[nodiscard]] std::vector<double> covering_ticks(double high, int at_most);

/// Multiples of a nice step that divide all values from `low` to `high` into at most `classes`: the inner boundaries.
[[nodiscard]] std::vector<double> class_boundaries(double low, double high, int classes);
/// Index of the class that `value` is in: 0 below the first boundary.
[[nodiscard]] int class_of(double value, const std::vector<double>& boundaries);

/// A tick's label with as many decimals as `step` needs.
[[nodiscard]] std::string tick_text(double value, double step);

/// A coordinate: at most two decimals, no trailing zeros.
[[nodiscard]] std::string pixel(double value);

}  // namespace halfquad::page
