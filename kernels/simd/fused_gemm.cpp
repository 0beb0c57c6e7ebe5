#include "kernels/fused_gemm.h"

#include <algorithm>
#include <cstddef>

#include "kernels/solver.h"
#include "runtime/error.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // as for the solver
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/fused_gemm.cpp"  // NOLINT
#include <hwy/foreach_target.h>                           // must come before the per-target code
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR || !HWY_NATIVE_FMA

void Multiply(const FusedProduct& product) { multiply_fused_plain(product); }

#else

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

constexpr size_t kTokens = static_cast<size_t>(kPanelTokens);
constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(float);  // scalable targets are disabled
// Accumulators that fit the registers beside the inputs and one weight: 6 x 2 of 16, 6 x 4 of 32.
constexpr size_t kRows = 6;
constexpr size_t kVectors = HWY_MAX_BYTES == 32 ? 2 : 4;
constexpr size_t kColumns = kVectors * kLanes;
static_assert(kTokens % kColumns == 0);
// Inputs of a panel that stay in the second-level cache while all rows pass: 256 KiB.
constexpr size_t kDepth = 1024;

/// Some rows of the weights, `depth` of their columns, and where their sums are.
struct Block {
  const float* weights = nullptr;
  size_t stride = 0;
  size_t depth = 0;
  bool is_first = false;  ///< The sums begin here, at 0.
};

template <size_t kCount>
HWY_INLINE void MultiplyRows(const Block& block, const float* HWY_RESTRICT inputs, float* HWY_RESTRICT outputs) {
  const DF df;
  VF sums[kCount][kVectors];
  for (size_t row = 0; row < kCount; ++row) {
    for (size_t v = 0; v < kVectors; ++v) {
      sums[row][v] = block.is_first ? hn::Zero(df) : hn::LoadU(df, outputs + row * kTokens + v * kLanes);
    }
  }
  const float* HWY_RESTRICT weights = block.weights;
  for (size_t d = 0; d < block.depth; ++d, inputs += kTokens, ++weights) {
    VF input[kVectors];
    for (size_t v = 0; v < kVectors; ++v) input[v] = hn::LoadU(df, inputs + v * kLanes);
    for (size_t row = 0; row < kCount; ++row) {
      const VF weight = hn::Set(df, weights[row * block.stride]);
      for (size_t v = 0; v < kVectors; ++v) sums[row][v] = hn::MulAdd(weight, input[v], sums[row][v]);
    }
  }
  for (size_t row = 0; row < kCount; ++row) {
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[row][v], df, outputs + row * kTokens + v * kLanes);
  }
}

/// All rows of a block, a few at a time, over one panel.
void MultiplyPanel(Block block, size_t rows, const float* inputs, float* outputs) {
  const float* const weights = block.weights;
  for (size_t column = 0; column < kTokens; column += kColumns) {
    size_t row = 0;
    for (; row + kRows <= rows; row += kRows) {
      block.weights = weights + row * block.stride;
      MultiplyRows<kRows>(block, inputs + column, outputs + row * kTokens + column);
    }
    for (; row < rows; ++row) {
      block.weights = weights + row * block.stride;
      MultiplyRows<1>(block, inputs + column, outputs + row * kTokens + column);
    }
  }
}

void Multiply(const FusedProduct& product) {
  const auto depth = static_cast<size_t>(product.depth);
  size_t at = 0;
  do {  // once without depth too, for the zeros
    const Block block{product.weights + at, depth, std::min(kDepth, depth - at), at == 0};
    for (std::int64_t panel = 0; panel < product.panels; ++panel) {
      MultiplyPanel(block, static_cast<size_t>(product.rows),
                    product.inputs + panel * product.input_stride + at * kTokens,
                    product.outputs + panel * product.output_stride);
    }
    at += block.depth;
  } while (at < depth);
}

#endif

}  // namespace

void MultiplyOfTarget(const FusedProduct& product) { Multiply(product); }

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/simd/chosen_target.h"

namespace halfquad {
namespace {

HWY_EXPORT(MultiplyOfTarget);

}  // namespace

FusedMultiply fused_multiply(const std::optional<std::string>& target) {
  return HWY_DISPATCH_TABLE(MultiplyOfTarget)[simd::find_target(target).index];
}

}  // namespace halfquad
#endif
