#include "sharding/value_histogram.h"

#include <algorithm>
#include <cmath>

namespace halfquad {
namespace {

constexpr std::uint64_t kOneOutside = 1000;  // one in so many values may lie outside of a view

/// floor(bin / 2^shift), for negative bins too.
std::int64_t coarser(std::int64_t bin, int shift) { return shift >= 62 ? (bin < 0 ? -1 : 0) : bin >> shift; }

}  // namespace

void ValueHistogram::add(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  // |value| < 2^(e+1) for the largest, so bins of 2^(e+1) / kHalf hold it.
  if (largest > 0) widen(std::ilogb(largest) + 1 - std::ilogb(static_cast<double>(kHalf)));
  const double inverse = std::ldexp(1.0, -exponent_);
  for (const float value : values) {
    const auto bin = static_cast<std::int64_t>(std::floor(static_cast<double>(value) * inverse));
    ++counts_[static_cast<std::size_t>(bin + kHalf)];
  }
  total_ += values.size();
}

void ValueHistogram::add(const ValueHistogram& other) {
  widen(other.exponent_);
  const int shift = exponent_ - other.exponent_;
  for (std::int64_t bin = -kHalf; bin < kHalf; ++bin) {
    counts_[static_cast<std::size_t>(coarser(bin, shift) + kHalf)] +=
        other.counts_[static_cast<std::size_t>(bin + kHalf)];
  }
  total_ += other.total_;
}

void ValueHistogram::widen(int exponent) {
  if (exponent <= exponent_) return;
  const int shift = exponent - exponent_;
  std::vector<std::uint64_t> wide(counts_.size());
  for (std::int64_t bin = -kHalf; bin < kHalf; ++bin) {
    wide[static_cast<std::size_t>(coarser(bin, shift) + kHalf)] += counts_[static_cast<std::size_t>(bin + kHalf)];
  }
  counts_ = std::move(wide);
  exponent_ = exponent;
}

int ValueHistogram::view_exponent(std::int64_t bins) const noexcept {
  // The narrowest window around 0, in bins to either side, with few enough values outside.
  std::uint64_t outside = 0;
  std::int64_t half = kHalf;
  for (; half > 1; --half) {
    outside += counts_[static_cast<std::size_t>(half - 1 + kHalf)] + counts_[static_cast<std::size_t>(kHalf - half)];
    if (outside > total_ / kOneOutside) break;
  }
  int exponent = exponent_;
  for (std::int64_t held = bins / 2; held < half; held *= 2) ++exponent;
  return exponent;
}

ValueHistogram::View ValueHistogram::view(int exponent, std::int64_t bins) const {
  View view;
  view.width = std::ldexp(1.0, exponent);
  view.low = -view.width * static_cast<double>(bins / 2);
  view.counts.resize(static_cast<std::size_t>(bins));
  for (std::int64_t bin = -kHalf; bin < kHalf; ++bin) {
    const std::uint64_t count = counts_[static_cast<std::size_t>(bin + kHalf)];
    const std::int64_t shown = coarser(bin, exponent - exponent_) + bins / 2;
    if (shown < 0) {
      view.below += count;
    } else if (shown >= bins) {
      view.above += count;
    } else {
      view.counts[static_cast<std::size_t>(shown)] += count;
    }
  }
  return view;
}

}  // namespace halfquad
