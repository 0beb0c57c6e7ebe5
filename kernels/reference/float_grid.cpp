#include "kernels/float_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/als_search.h"

namespace halfquad {
namespace {

/// One group.
struct Group {
  const float* w = nullptr;
  const float* h = nullptr;  // null: 1 each
  std::int64_t elems = 0;
};

float largest_of(const Group& group) {
  float largest = 0;
  for (std::int64_t k = 0; k < group.elems; ++k) largest = std::max(largest, std::abs(group.w[k]));
  return largest;
}

/// |w| in steps of E2M1 doubled: 0, 1, 2, 3, 4, 6, 8 or 12.
float steps_of(float w, float inverse_scale) {
  const float x = std::abs(w) * inverse_scale;
  const float unit = x < 4 ? 1.0F : x < 8 ? 2.0F : 4.0F;
  const float inverse_unit = x < 4 ? 1.0F : x < 8 ? 0.5F : 0.25F;
  return std::min(12.0F, std::nearbyint(x * inverse_unit) * unit);
}

float objective(const Group& group, float scale, float inverse_scale) {
  float sum = 0;
  for (std::int64_t k = 0; k < group.elems; ++k) {
    const float e = std::abs(group.w[k]) - steps_of(group.w[k], inverse_scale) * scale;
    const float he = group.h == nullptr ? e : group.h[k] * e;
    sum += he * e;
  }
  return sum;
}

std::size_t best_byte(const Group& group, const FloatScales& scales, ScaleSearch search) {
  const int first = scales.first_byte(largest_of(group));
  auto best = static_cast<std::size_t>(first);
  if (search == ScaleSearch::kLargest) return best;
  float least = objective(group, scales.scale[best], scales.inverse[best]);
  for (const int offset : scales.offsets.subspan(1)) {
    const auto byte = static_cast<std::size_t>(std::clamp(first + offset, scales.lowest, scales.highest));
    const float found = objective(group, scales.scale[byte], scales.inverse[byte]);
    if (!(found < least)) continue;
    least = found;
    best = byte;
  }
  return best;
}

/// What a stored scale is worth, and the sums that the best one for its codes follows from.
struct Look {
  float score = 0, a = 0, b = 0;
};

Look look_at(const Group& group, const Levels& levels, int count, float scale) {
  const float inverse = 1 / scale;
  Look look;
  for (std::int64_t k = 0; k < group.elems; ++k) {
    const float w = group.w[k];
    const float level = levels[static_cast<std::size_t>(nearest_level(levels, count, w * inverse))];
    const float e = w - level * scale;
    const float he = group.h == nullptr ? e : group.h[k] * e;
    const float hl = group.h == nullptr ? level : group.h[k] * level;
    look.score += he * e;
    look.a += hl * w;
    look.b += hl * level;
  }
  return look;
}

/// The stored scale; a group of zeros is not asked for.
float best_level_scale(const Group& group, float first, const FloatGroups& groups, int count) {
  const LevelGroups& of = groups.of_levels;
  float best = stored_level_scale(of.stored, first);
  float least = std::numeric_limits<float>::infinity();
  for (int start = 0; start < of.starts; ++start) {
    float scale = stored_level_scale(of.stored, first * AlsSearch::part(start, of.starts));
    for (int round = 0; round <= of.rounds; ++round) {
      const Look look = look_at(group, *of.levels, count, scale);
      if (look.score < least) {
        least = look.score;
        best = scale;
      }
      const float fitted = look.a / look.b;
      if (!(look.a > 0) || !(look.b > 0) || !(fitted <= std::numeric_limits<float>::max())) break;
      const float next = stored_level_scale(of.stored, fitted);
      if (next == scale) break;
      scale = next;
    }
  }
  return best;
}

class ReferenceSearcher final : public FloatGridSearcher {
 public:
  void run(const FloatGroups& groups, ScaleSearch search, const FloatCodes& out) const override {
    if (groups.of_levels.levels != nullptr) return run_levels(groups, search, out);
    const FloatScales scales(groups.grid, groups.tensor_scale);
    const std::int64_t elems = groups.group_elems();
    for (std::int64_t g = 0; g < groups.groups; ++g) {
      const Group group = group_of(groups, g);
      const std::size_t byte = best_byte(group, scales, search);
      out.scale[g] = scales.scale[byte];
      for (std::int64_t k = 0; k < elems; ++k) {
        const int steps = static_cast<int>(steps_of(group.w[k], scales.inverse[byte]));
        const int code = kFloatCodeZero + (std::signbit(group.w[k]) ? -steps : steps);
        out.codes[g * elems + k] = static_cast<std::uint8_t>(code);
      }
    }
  }

 private:
  static Group group_of(const FloatGroups& groups, std::int64_t g) {
    const std::int64_t elems = groups.group_elems();
    return {groups.weights + g * elems,
            groups.importance == nullptr ? nullptr : groups.importance + g * elems % groups.cols, elems};
  }

  static void run_levels(const FloatGroups& groups, ScaleSearch search, const FloatCodes& out) {
    const LevelGroups& of = groups.of_levels;
    const int count = level_count(groups.grid);
    for (std::int64_t g = 0; g < groups.groups; ++g) {
      const Group group = group_of(groups, g);
      const float largest = largest_of(group);
      const float first = largest / level_unit(groups.grid);
      const float scale = search == ScaleSearch::kBest ? best_level_scale(group, first, groups, count)
                                                       : stored_level_scale(of.stored, first);
      out.scale[g] = largest == 0 ? 0 : scale;
      const float inverse = 1 / scale;
      for (std::int64_t k = 0; k < group.elems; ++k) {
        out.codes[g * group.elems + k] =
            static_cast<std::uint8_t>(nearest_level(*of.levels, count, group.w[k] * inverse));
      }
    }
  }
};

}  // namespace

std::unique_ptr<FloatGridSearcher> make_reference_float_searcher() { return std::make_unique<ReferenceSearcher>(); }

}  // namespace halfquad
