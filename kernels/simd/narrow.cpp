#include "kernels/simd/narrow.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // as for the solver
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/narrow.cpp"  // NOLINT
#include <hwy/foreach_target.h>                       // must come before the per-target code
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

std::size_t ToF16([[maybe_unused]] const float* in, [[maybe_unused]] std::size_t count,
                  [[maybe_unused]] std::byte* out) {
  std::size_t i = 0;
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86  // F16C keeps what fits of a NaN; emulations need not
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, hn::ScalableTag<float>> d16;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
    hn::StoreU(hn::DemoteTo(d16, hn::LoadU(d, in + i)), d16, reinterpret_cast<hwy::float16_t*>(out + 2 * i));
  }
#endif
  return i;
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfquad {
namespace {

HWY_EXPORT(ToF16);

}  // namespace

std::size_t simd::narrow_to_f16(const float* in, std::size_t count, std::byte* out) noexcept {
  return HWY_DYNAMIC_DISPATCH(ToF16)(in, count, out);
}

}  // namespace halfquad
#endif
