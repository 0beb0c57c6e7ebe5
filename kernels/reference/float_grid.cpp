#include "kernels/float_grid.h"

#include <algorithm>
#include <cmath>

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

class ReferenceSearcher final : public FloatGridSearcher {
 public:
  void run(const FloatGroups& groups, ScaleSearch search, const FloatCodes& out) const override {
    const FloatScales scales(groups.grid, groups.tensor_scale);
    const std::int64_t elems = group_size_of(groups.grid);
    for (std::int64_t g = 0; g < groups.groups; ++g) {
      const Group group{groups.weights + g * elems,
                        groups.importance == nullptr ? nullptr : groups.importance + g * elems % groups.cols, elems};
      const std::size_t byte = best_byte(group, scales, search);
      out.scale[g] = scales.scale[byte];
      for (std::int64_t k = 0; k < elems; ++k) {
        const int steps = static_cast<int>(steps_of(group.w[k], scales.inverse[byte]));
        const int code = kFloatCodeZero + (std::signbit(group.w[k]) ? -steps : steps);
        out.codes[g * elems + k] = static_cast<std::uint8_t>(code);
      }
    }
  }
};

}  // namespace

std::unique_ptr<FloatGridSearcher> make_reference_float_searcher() { return std::make_unique<ReferenceSearcher>(); }

}  // namespace halfquad
