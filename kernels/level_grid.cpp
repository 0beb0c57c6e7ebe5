#include "kernels/level_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/decode.h"
#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr Levels kE2M1 = {-6, -4, -3, -2, -1.5F, -1, -0.5F, 0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
constexpr Levels kE2M0 = {-4, -2, -1, 0, 1, 2, 4};
constexpr Levels kE1M1 = {-3, -2, -1, 0, 1, 2, 3};
// bitsandbytes, create_normal_map()
constexpr Levels kNormal = {-1.0F,
                            -0.6961928009986877F,
                            -0.5250730514526367F,
                            -0.39491748809814453F,
                            -0.28444138169288635F,
                            -0.18477343022823334F,
                            -0.09105003625154495F,
                            0.0F,
                            0.07958029955625534F,
                            0.16093020141124725F,
                            0.24611230194568634F,
                            0.33791524171829224F,
                            0.44070982933044434F,
                            0.5626170039176941F,
                            0.7229568362236023F,
                            1.0F};

// As everywhere (sharding/stored_grid.h): the smallest positive value of F16.
constexpr float kLeastScale = 0x1p-24F;

/// Places that weights lie at and how much they count, ascending, as sums from the first on.
class Places {
 public:
  explicit Places(std::span<const ExactSum> bins) {
    for (std::size_t bin = 0; bin < bins.size(); ++bin) {
      const double mass = bins[bin].value();
      if (!(mass > 0)) continue;
      const double at = (2 * static_cast<double>(bin) + 1) / static_cast<double>(bins.size()) - 1;
      mass_.push_back(mass_.back() + mass);
      first_.push_back(first_.back() + mass * at);
      second_.push_back(second_.back() + mass * at * at);
    }
  }

  [[nodiscard]] std::size_t size() const noexcept { return mass_.size() - 1; }
  /// Of places [begin, end), which are some.
  [[nodiscard]] double mean(std::size_t begin, std::size_t end) const noexcept {
    return (first_[end] - first_[begin]) / (mass_[end] - mass_[begin]);
  }
  /// Sum of their squared distances to the mean.
  [[nodiscard]] double cost(std::size_t begin, std::size_t end) const noexcept {
    const double sum = first_[end] - first_[begin];
    return std::max(0.0, second_[end] - second_[begin] - sum * mean(begin, end));
  }

 private:
  std::vector<double> mass_ = {0}, first_ = {0}, second_ = {0};
};

/// Cuts places into runs with the least sum of costs: adds one run after the other, and finds where the last one begins
/// from the middle outwards, since it never begins earlier for more places.
class RunCutter {
 public:
  explicit RunCutter(const Places& places) : places_(places), least_(places.size() + 1), before_(least_.size()) {
    for (std::size_t end = 1; end < least_.size(); ++end) least_[end] = places.cost(0, end);
  }

  void add_run() {
    std::swap(before_, least_);
    begins_.emplace_back(least_.size());
    const std::size_t runs = begins_.size() + 1;
    find(runs, places_.size(), runs - 1, places_.size() - 1);
  }

  /// Where run `run` (from 1 on) begins if it is the last and ends at `end`.
  [[nodiscard]] std::size_t begin_of(std::size_t run, std::size_t end) const { return begins_[run - 1][end]; }

 private:
  /// For all ends in [low, high], whose last run begins in [from, to].
  void find(std::size_t low, std::size_t high, std::size_t from, std::size_t to) {
    if (low > high) return;
    const std::size_t end = low + (high - low) / 2;
    double least = std::numeric_limits<double>::infinity();
    std::size_t best = from;
    for (std::size_t begin = from; begin <= std::min(to, end - 1); ++begin) {
      const double cost = before_[begin] + places_.cost(begin, end);
      if (!(cost < least)) continue;
      least = cost;
      best = begin;
    }
    least_[end] = least;
    begins_.back()[end] = best;
    if (end > low) find(low, end - 1, from, best);
    find(end + 1, high, best, to);
  }

  const Places& places_;
  std::vector<double> least_, before_;  // by the end of the last run, for as many runs as there are and one less
  std::vector<std::vector<std::size_t>> begins_;
};

}  // namespace

int level_count(FloatGrid grid) noexcept {
  switch (grid) {
    case FloatGrid::kFp4:
      return 15;
    case FloatGrid::kFp3E2M0:
    case FloatGrid::kFp3E1M1:
      return 7;
    case FloatGrid::kNf4:
    case FloatGrid::kLearned4:
      return 16;
    case FloatGrid::kLearned3:
      return 8;
    case FloatGrid::kNone:
    case FloatGrid::kNvfp4:
    case FloatGrid::kMxfp4:
      return 0;
  }
  return 0;
}

CodeWidth level_width(FloatGrid grid) noexcept { return level_count(grid) <= 8 ? CodeWidth::k3 : CodeWidth::k4; }

const Levels* fixed_levels(FloatGrid grid) noexcept {
  if (grid == FloatGrid::kFp4) return &kE2M1;
  if (grid == FloatGrid::kFp3E2M0) return &kE2M0;
  if (grid == FloatGrid::kFp3E1M1) return &kE1M1;
  return grid == FloatGrid::kNf4 ? &kNormal : nullptr;
}

float level_unit(FloatGrid grid) noexcept {
  const Levels* levels = fixed_levels(grid);
  return levels == nullptr ? 1.0F : (*levels)[static_cast<std::size_t>(level_count(grid) - 1)];
}

int nearest_level(const Levels& levels, int count, float x) noexcept {
  int nearest = 0;
  for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(count); ++i) nearest += x > level_middle(levels, i) ? 1 : 0;
  return nearest;
}

float stored_level_scale(DType stored, float scale) noexcept { return std::max(round_to(stored, scale), kLeastScale); }

void LevelHistogram::add(std::span<const float> weights, std::int64_t group_elems, std::span<const float> importance) {
  HALFQUAD_DCHECK(weights.size() % static_cast<std::size_t>(group_elems) == 0);
  for (std::size_t at = 0; at < weights.size(); at += static_cast<std::size_t>(group_elems)) {
    const auto group = weights.subspan(at, static_cast<std::size_t>(group_elems));
    float largest = 0;
    for (const float w : group) largest = std::max(largest, std::abs(w));
    if (largest == 0) continue;
    const float square = largest * largest;
    const float* const h = importance.empty() ? nullptr : importance.data() + at % importance.size();
    for (std::size_t k = 0; k < group.size(); ++k) {
      const float place = (group[k] / largest + 1) * static_cast<float>(kBins / 2);
      const std::size_t bin = std::min(kBins - 1, static_cast<std::size_t>(place));
      bins_[bin].add(finite_or_max(h == nullptr ? square : h[k] * square));
    }
  }
}

void LevelHistogram::add(const LevelHistogram& other) {
  for (std::size_t bin = 0; bin < kBins; ++bin) bins_[bin].add(other.bins_[bin]);
}

Levels LevelHistogram::fit(int count) const {
  const Places places(bins_);
  Levels levels{};
  if (places.size() == 0) return levels;
  const std::size_t runs = std::min(static_cast<std::size_t>(count), places.size());
  RunCutter cutter(places);
  for (std::size_t run = 1; run < runs; ++run) cutter.add_run();
  std::size_t end = places.size();
  for (std::size_t run = runs; run-- > 0;) {
    const std::size_t begin = run == 0 ? 0 : cutter.begin_of(run, end);
    levels[run] = static_cast<float>(places.mean(begin, end));
    end = begin;
  }
  std::fill(levels.begin() + static_cast<std::ptrdiff_t>(runs), levels.begin() + count, levels[runs - 1]);
  return levels;
}

std::vector<std::uint64_t> LevelHistogram::digits() const {
  std::vector<std::uint64_t> all;
  all.reserve(kBins * kDigits);
  for (const ExactSum& bin : bins_) {
    const auto digits = bin.digits();
    static_assert(digits.size() == kDigits);
    all.insert(all.end(), digits.begin(), digits.end());
  }
  return all;
}

LevelHistogram LevelHistogram::from_digits(std::span<const std::uint64_t> digits) {
  HALFQUAD_DCHECK(digits.size() == kBins * kDigits);
  LevelHistogram histogram;
  for (std::size_t bin = 0; bin < kBins; ++bin) {
    std::array<std::uint64_t, kDigits> of_bin{};
    std::copy_n(digits.begin() + static_cast<std::ptrdiff_t>(bin * kDigits), kDigits, of_bin.begin());
    histogram.bins_[bin] = ExactSum::from_digits(of_bin);
  }
  return histogram;
}

}  // namespace halfquad
