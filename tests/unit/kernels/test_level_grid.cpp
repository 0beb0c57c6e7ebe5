#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "kernels/float_grid.h"
#include "kernels/level_grid.h"
#include "kernels/solver.h"
#include "tests/support/golden_hqq.h"
#include "tests/unit/kernels/random_groups.h"

namespace halfquad {
namespace {

constexpr DType kStored[] = {DType::kF16, DType::kBF16, DType::kF32};

/// Some rows of weights on a grid with levels, and what counts how much in them.
struct Rows {
  FloatGrid grid = FloatGrid::kNf4;
  Levels levels{};
  LevelGroups of;
  std::int64_t cols = 0;
  std::vector<float> weights, importance;

  [[nodiscard]] std::int64_t groups() const { return static_cast<std::int64_t>(weights.size()) / of.group_elems; }
  [[nodiscard]] FloatGroups all() const { return some(0, groups()); }
  [[nodiscard]] FloatGroups some(std::int64_t first, std::int64_t count) const {
    FloatGroups groups{.grid = grid,
                       .weights = weights.data() + first * of.group_elems,
                       .groups = count,
                       .importance = importance.empty() ? nullptr : importance.data(),
                       .cols = cols,
                       .of_levels = of};
    groups.of_levels.levels = &levels;
    return groups;
  }
};

Levels random_levels(std::mt19937_64& random, int count) {
  std::uniform_real_distribution<float> anywhere(-1, 1);
  Levels levels{};
  for (int i = 0; i < count; ++i) levels[static_cast<std::size_t>(i)] = anywhere(random);
  std::sort(levels.begin(), levels.begin() + count);
  return levels;
}

Rows random_rows(std::mt19937_64& random, FloatGrid grid, test::Weights kind, double scale) {
  Rows rows;
  rows.grid = grid;
  const Levels* fixed = fixed_levels(grid);
  rows.levels = fixed == nullptr ? random_levels(random, level_count(grid)) : *fixed;
  rows.of.group_elems = std::int64_t{1} << (random() % 8);
  rows.of.stored = kStored[random() % 3];
  rows.of.starts = 1 + static_cast<int>(random() % 5);
  rows.of.rounds = 1 + static_cast<int>(random() % 4);
  const std::int64_t per_row = 1 + static_cast<std::int64_t>(random() % 5);
  rows.cols = per_row * rows.of.group_elems;
  const std::int64_t count = per_row * (1 + static_cast<std::int64_t>(random() % 9));
  for (const double w : test::random_weights(random, {count, rows.of.group_elems}, kind, scale)) {
    rows.weights.push_back(static_cast<float>(w));
  }
  if (random() % 3 == 0) return rows;
  std::lognormal_distribution<float> loudness(0, 2);
  for (std::int64_t i = 0; i < rows.cols; ++i) rows.importance.push_back(std::clamp(loudness(random), 1e-3F, 1e4F));
  return rows;
}

std::vector<Rows> many_rows(std::uint64_t seed, int rounds) {
  std::mt19937_64 random(seed);
  std::vector<Rows> all;
  for (int round = 0; round < rounds; ++round) {
    for (int kind = 0; kind < test::kWeightsKinds; ++kind) {
      for (const FloatGrid grid : kLevelGrids) {
        all.push_back(random_rows(random, grid, static_cast<test::Weights>(kind), round % 2 == 0 ? 0.02 : 3.0));
      }
    }
  }
  return all;
}

struct Found {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;
  bool operator==(const Found&) const = default;
};

Found run(const FloatGridSearcher& searcher, const FloatGroups& groups, ScaleSearch search) {
  const auto count = static_cast<std::size_t>(groups.groups);
  Found found{std::vector<std::uint8_t>(count * static_cast<std::size_t>(groups.group_elems()) + 1, 0xEE),
              std::vector<float>(count + 1, -7)};
  searcher.run(groups, search, {found.codes.data(), found.scale.data()});
  EXPECT_EQ(found.codes.back(), 0xEE);
  EXPECT_EQ(found.scale.back(), -7);
  found.codes.pop_back();
  found.scale.pop_back();
  return found;
}

double error_of(const Rows& rows, const Found& found, std::int64_t group) {
  double sum = 0;
  for (std::int64_t k = 0; k < rows.of.group_elems; ++k) {
    const auto at = static_cast<std::size_t>(group * rows.of.group_elems + k);
    const double h = rows.importance.empty() ? 1.0 : double{rows.importance[at % static_cast<std::size_t>(rows.cols)]};
    const double restored = double{rows.levels[found.codes[at]]} * double{found.scale[static_cast<std::size_t>(group)]};
    sum += h * (double{rows.weights[at]} - restored) * (double{rows.weights[at]} - restored);
  }
  return sum;
}

TEST(LevelGrid, EveryTargetFindsTheBytesOfTheDefinition) {
  const auto reference = make_reference_float_searcher();
  const std::vector<Rows> all = many_rows(21, 4);
  for (const std::string& target : simd_targets()) {
    const auto searcher = make_float_searcher(target);
    for (const Rows& rows : all) {
      for (const ScaleSearch search : {ScaleSearch::kLargest, ScaleSearch::kBest}) {
        const Found got = run(*searcher, rows.all(), search);
        const Found want = run(*reference, rows.all(), search);
        ASSERT_EQ(got.codes, want.codes) << target << ", " << name_of(rows.grid) << ", " << name_of(rows.of.stored);
        for (std::size_t i = 0; i < want.scale.size(); ++i) {  // infinite where F16 does not hold it
          ASSERT_EQ(got.scale[i], want.scale[i]) << target << ", " << name_of(rows.grid) << ", group " << i;
        }
      }
    }
  }
}

TEST(LevelGrid, PartsComeOutAsTheWhole) {
  const auto searcher = make_float_searcher();
  for (const Rows& rows : many_rows(22, 2)) {
    const Found whole = run(*searcher, rows.all(), ScaleSearch::kBest);
    const std::int64_t per_row = rows.cols / rows.of.group_elems;
    Found parts;
    for (std::int64_t first = 0; first < rows.groups(); first += per_row) {
      const Found part = run(*searcher, rows.some(first, per_row), ScaleSearch::kBest);
      parts.codes.insert(parts.codes.end(), part.codes.begin(), part.codes.end());
      parts.scale.insert(parts.scale.end(), part.scale.begin(), part.scale.end());
    }
    ASSERT_EQ(parts, whole) << name_of(rows.grid);
  }
}

TEST(LevelGrid, CodesAreOfTheNearestLevels) {
  const auto searcher = make_float_searcher();
  for (const Rows& rows : many_rows(23, 3)) {
    const Found found = run(*searcher, rows.all(), ScaleSearch::kBest);
    for (std::size_t at = 0; at < found.codes.size(); ++at) {
      const double s = found.scale[at / static_cast<std::size_t>(rows.of.group_elems)];
      const double w = rows.weights[at];
      if (!std::isfinite(s)) continue;
      const auto distance = [&](std::size_t level) { return std::abs(w - double{rows.levels[level]} * s); };
      double least = std::numeric_limits<double>::infinity();
      for (int i = 0; i < level_count(rows.grid); ++i) least = std::min(least, distance(static_cast<std::size_t>(i)));
      ASSERT_LT(found.codes[at], level_count(rows.grid));
      // Middles, 1 / s and w / s are rounded.
      ASSERT_LE(distance(found.codes[at]), least + 1e-6 * (std::abs(w) + std::abs(s) * 6)) << name_of(rows.grid);
    }
  }
}

TEST(LevelGrid, NoGroupIsWorseThanRoundedWithTheLargestScale) {
  const auto searcher = make_float_searcher();
  double rounded_sum = 0, best_sum = 0;
  for (const Rows& rows : many_rows(24, 6)) {
    const Found rounded = run(*searcher, rows.all(), ScaleSearch::kLargest);
    const Found best = run(*searcher, rows.all(), ScaleSearch::kBest);
    for (std::int64_t group = 0; group < rows.groups(); ++group) {
      const double is = error_of(rows, best, group), was = error_of(rows, rounded, group);
      if (!std::isfinite(was)) continue;
      // The search adds up in fp32, and middles are rounded.
      ASSERT_LE(is, was * (1 + 1e-4) + 1e-30) << name_of(rows.grid) << ", group " << group;
      if (rows.weights.size() < 64 || was > 1e9) continue;
      rounded_sum += was;
      best_sum += is;
    }
  }
  EXPECT_LT(best_sum, 0.95 * rounded_sum);
}

TEST(LevelGrid, ScalesAreWhatTheirDtypeHoldsAndNeverZeroButForZeros) {
  const auto searcher = make_float_searcher();
  for (const Rows& rows : many_rows(25, 2)) {
    const Found found = run(*searcher, rows.all(), ScaleSearch::kBest);
    for (std::int64_t group = 0; group < rows.groups(); ++group) {
      const float* const first = rows.weights.data() + group * rows.of.group_elems;
      const float s = found.scale[static_cast<std::size_t>(group)];
      EXPECT_EQ(s == 0, std::all_of(first, first + rows.of.group_elems, [](float w) { return w == 0; }));
      EXPECT_EQ(round_to(rows.of.stored, s), s);
    }
  }
}

TEST(LevelGrid, FixedTablesAscendAndFillTheirBits) {
  for (const FloatGrid grid : kLevelGrids) {
    EXPECT_LE(level_count(grid), qmax(level_width(grid)) + 1);
    EXPECT_EQ(float_grid_from_name(name_of(grid)), grid);
    const Levels* levels = fixed_levels(grid);
    ASSERT_EQ(levels == nullptr, QuantSpec{.grid = grid}.learns_levels());
    if (levels == nullptr) continue;
    for (std::size_t i = 1; i < static_cast<std::size_t>(level_count(grid)); ++i) {
      EXPECT_LT((*levels)[i - 1], (*levels)[i]) << name_of(grid);
    }
    EXPECT_EQ(level_unit(grid), -(*levels)[0]);
  }
}

/// The levels with the least error by trying every way to cut few places into runs.
double least_cost(const std::vector<double>& places, const std::vector<double>& mass, std::size_t first, int runs) {
  if (first == places.size()) return 0;
  if (runs == 0) return std::numeric_limits<double>::infinity();
  double least = std::numeric_limits<double>::infinity();
  double m = 0, sum = 0, square = 0;
  for (std::size_t end = first; end < places.size(); ++end) {
    m += mass[end];
    sum += mass[end] * places[end];
    square += mass[end] * places[end] * places[end];
    least = std::min(least, square - sum * sum / m + least_cost(places, mass, end + 1, runs - 1));
  }
  return least;
}

TEST(LevelHistogram, FitsTheBestLevelsThereAre) {
  std::mt19937_64 random(26);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 20; ++round) {
    std::vector<float> weights = {1};
    std::vector<double> places = {1 - 1.0 / 1024};
    for (int i = 0; i < 12; ++i) weights.push_back(std::clamp(normal(random) / 3, -0.99F, 0.99F));
    LevelHistogram histogram;
    histogram.add(weights, static_cast<std::int64_t>(weights.size()), {});
    for (std::size_t i = 1; i < weights.size(); ++i) {
      places.push_back((std::floor((double{weights[i]} + 1) * 512) + 0.5) / 512 - 1);
    }
    std::sort(places.begin(), places.end());
    const std::vector<double> mass(places.size(), 1);

    const Levels levels = histogram.fit(5);

    double cost = 0;
    for (const double place : places) {
      double nearest = std::numeric_limits<double>::infinity();
      for (std::size_t i = 0; i < 5; ++i) nearest = std::min(nearest, std::abs(place - double{levels[i]}));
      cost += nearest * nearest;
    }
    EXPECT_NEAR(cost, least_cost(places, mass, 0, 5), 1e-6);
    EXPECT_TRUE(std::is_sorted(levels.begin(), levels.begin() + 5));
    EXPECT_EQ(levels[5], 0);
  }
}

TEST(LevelHistogram, AddsUpToTheSameInAnyOrder) {
  std::mt19937_64 random(27);
  const std::vector<double> wide = test::random_weights(random, {96, 32}, test::Weights::kHeavyTails, 0.02);
  const std::vector<float> weights(wide.begin(), wide.end());
  const std::vector<float> importance = {0.01F, 3, 100, 1, 1, 7, 1e-3F, 2, 0.01F, 3, 100, 1, 1, 7, 1e-3F, 2,
                                         0.01F, 3, 100, 1, 1, 7, 1e-3F, 2, 0.01F, 3, 100, 1, 1, 7, 1e-3F, 2};
  LevelHistogram whole, parts;
  whole.add(weights, 32, importance);
  for (std::size_t row = 96; row-- > 0;) {
    LevelHistogram part;
    part.add(std::span(weights).subspan(row * 32, 32), 32, importance);
    parts.add(LevelHistogram::from_digits(part.digits()));
  }
  EXPECT_EQ(parts.digits(), whole.digits());
  EXPECT_EQ(parts.fit(16), whole.fit(16));
  LevelHistogram alike;
  alike.add(weights, 32, {});
  EXPECT_NE(alike.fit(16), whole.fit(16));
}

TEST(LevelHistogram, HasLevelsForTensorsWithFewValues) {
  LevelHistogram none;
  EXPECT_EQ(none.fit(8), Levels{});
  none.add(std::vector<float>(64, 0.0F), 64, {});
  EXPECT_EQ(none.fit(8), Levels{});
  LevelHistogram two;
  two.add(std::vector<float>{-3, 3}, 2, {});
  const Levels levels = two.fit(8);
  EXPECT_FLOAT_EQ(levels[0], -1 + 1.0F / 1024);
  for (std::size_t i = 1; i < 8; ++i) EXPECT_FLOAT_EQ(levels[i], 1 - 1.0F / 1024);
}

// Against tests/golden/formats/make_level_grids.py, which says the same in numpy.
class LevelGoldens : public testing::TestWithParam<FloatGrid> {
 protected:
  static const test::GoldenTensor& tensor(const std::string& key) {
    static const test::GoldenFile file =
        test::read_golden_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "formats" / "level_grids.safetensors");
    return file.at(key);
  }
};

TEST_P(LevelGoldens, AreFoundToTheByte) {
  const std::string name(name_of(GetParam()));
  const std::vector<float> weights = tensor("weight").floats(), h = tensor("importance").floats();
  const std::vector<float> table = tensor(name + ".table").floats();
  constexpr std::int64_t kGroup = 32;
  Levels levels{};
  if (const Levels* fixed = fixed_levels(GetParam()); fixed != nullptr) {
    levels = *fixed;
  } else {
    LevelHistogram histogram;
    histogram.add(weights, kGroup, h);
    levels = histogram.fit(level_count(GetParam()));
  }
  ASSERT_EQ(table.size(), static_cast<std::size_t>(level_count(GetParam())));
  for (std::size_t i = 0; i < table.size(); ++i) ASSERT_FLOAT_EQ(levels[i], table[i]) << i;
  std::copy(table.begin(), table.end(), levels.begin());

  for (const auto& [search, key] : {std::pair{ScaleSearch::kLargest, "rounded"}, {ScaleSearch::kBest, "searched"}}) {
    std::vector<std::uint8_t> codes(weights.size());
    std::vector<float> scale(weights.size() / kGroup);
    make_float_searcher()->run({.grid = GetParam(),
                                .weights = weights.data(),
                                .groups = static_cast<std::int64_t>(scale.size()),
                                .importance = h.data(),
                                .cols = static_cast<std::int64_t>(h.size()),
                                .of_levels = {.levels = &levels, .group_elems = kGroup}},
                               search, {codes.data(), scale.data()});
    EXPECT_EQ(scale, tensor(name + "." + key + ".scale").floats());
    const std::vector<std::byte>& want = tensor(name + "." + key + ".codes").bytes;
    EXPECT_TRUE(std::ranges::equal(codes, want, {}, {}, [](std::byte b) { return std::to_integer<std::uint8_t>(b); }));
  }
}

INSTANTIATE_TEST_SUITE_P(All, LevelGoldens, testing::ValuesIn(kLevelGrids), [](const auto& info) {
  std::string name(name_of(info.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace halfquad
