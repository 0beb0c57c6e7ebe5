#include <memory>
#include <optional>
#include <string>

#include "kernels/ggml_k_quants.h"
#include "kernels/k_quant_block.h"
#include "kernels/solver.h"
#include "runtime/check.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // as for the solver
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/k_quants.cpp"  // NOLINT
#include <hwy/foreach_target.h>                         // must come before the per-target code

#include "kernels/simd/k_quant_search-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {

template <GgmlKQuant kKind>
void QuantizeAll(const float* weights, std::int64_t count, const ColumnWeights& importance, std::byte* blocks) {
  KQuantSearch<kKind> search;
  KQuantBlock block;
  for (std::int64_t at = 0; at < count; at += kGgmlSuperBlock, blocks += shape_of(kKind).bytes) {
    const float* const h =
        importance.h == nullptr ? nullptr : importance.h + (importance.first_col + at) % importance.cols;
    search.Run(weights + at, h, block);
    pack_k_block(kKind, block, blocks);
  }
}

}  // namespace

void QuantizeK(GgmlKQuant kind, const float* weights, std::int64_t count, const ColumnWeights& importance,
               std::byte* blocks) {
  switch (kind) {
    case GgmlKQuant::kQ2_K:
      return QuantizeAll<GgmlKQuant::kQ2_K>(weights, count, importance, blocks);
    case GgmlKQuant::kQ3_K:
      return QuantizeAll<GgmlKQuant::kQ3_K>(weights, count, importance, blocks);
    case GgmlKQuant::kQ4_K:
      return QuantizeAll<GgmlKQuant::kQ4_K>(weights, count, importance, blocks);
    case GgmlKQuant::kQ5_K:
      return QuantizeAll<GgmlKQuant::kQ5_K>(weights, count, importance, blocks);
    case GgmlKQuant::kQ6_K:
      return QuantizeAll<GgmlKQuant::kQ6_K>(weights, count, importance, blocks);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/simd/chosen_target.h"

namespace halfquad {
namespace {

HWY_EXPORT(QuantizeK);

class DispatchedQuantizer final : public GgmlKQuantizer {
 public:
  using Function = void (*)(GgmlKQuant, const float*, std::int64_t, const ColumnWeights&, std::byte*);
  explicit DispatchedQuantizer(Function function) : function_(function) {}

  void quantize(GgmlKQuant kind, const float* weights, std::int64_t count, const ColumnWeights& importance,
                std::byte* blocks) const override {
    HALFQUAD_DCHECK(count % kGgmlSuperBlock == 0);
    HALFQUAD_DCHECK(importance.h == nullptr || (importance.cols | importance.first_col) % kGgmlSuperBlock == 0);
    function_(kind, weights, count, importance, blocks);
  }

 private:
  Function function_;
};

}  // namespace

std::unique_ptr<GgmlKQuantizer> make_k_quantizer(const std::optional<std::string>& target) {
  return std::make_unique<DispatchedQuantizer>(HWY_DISPATCH_TABLE(QuantizeK)[simd::find_target(target).index]);
}

}  // namespace halfquad
#endif
