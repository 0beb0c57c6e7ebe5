#include "kernels/float_grid.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "runtime/check.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // as for the solver
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/float_grid.cpp"  // NOLINT
#include <hwy/foreach_target.h>                           // must come before the per-target code

#include "kernels/simd/float_grid-inl.h"
#include "kernels/simd/level_grid-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

void SearchFloatGrid(const FloatGroups& groups, ScaleSearch search, const FloatCodes& out) {
  if (groups.of_levels.levels == nullptr) {
    FloatSearch<ByteScales>(groups, search).Run(out);
  } else if (level_count(groups.grid) <= 8) {
    FloatSearch<LevelScales<8>>(groups, search).Run(out);
  } else {
    FloatSearch<LevelScales<16>>(groups, search).Run(out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/simd/chosen_target.h"

namespace halfquad {
namespace {

HWY_EXPORT(SearchFloatGrid);

class DispatchedSearcher final : public FloatGridSearcher {
 public:
  using Function = void (*)(const FloatGroups&, ScaleSearch, const FloatCodes&);
  explicit DispatchedSearcher(Function function) : function_(function) {}

  void run(const FloatGroups& groups, ScaleSearch search, const FloatCodes& out) const override {
    function_(groups, search, out);
  }

 private:
  Function function_;
};

}  // namespace

std::unique_ptr<FloatGridSearcher> make_float_searcher(const std::optional<std::string>& target) {
  return std::make_unique<DispatchedSearcher>(HWY_DISPATCH_TABLE(SearchFloatGrid)[simd::find_target(target).index]);
}

}  // namespace halfquad
#endif
