// Importance of the columns that N groups lie in, and weighted means.
#if defined(HALFQUAD_KERNELS_SIMD_IMPORTANCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_IMPORTANCE_INL_H_
#undef HALFQUAD_KERNELS_SIMD_IMPORTANCE_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_IMPORTANCE_INL_H_
#endif

#include <cstring>

#include "kernels/simd/sums-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

// `elems` importances from column `col` on, going round after the last.
HWY_INLINE void CopyImportance(const ColumnWeights& columns, size_t col, size_t elems, float* HWY_RESTRICT out) {
  const size_t cols = static_cast<size_t>(columns.cols);
  for (size_t done = 0; done < elems; col = 0) {
    const size_t n = cols - col < elems - done ? cols - col : elems - done;
    std::memcpy(out + done, columns.h + col, n * sizeof(float));
    done += n;
  }
}

// Importance of the elements of a block's groups, N at a time, laid out as LoadLanes() lays out their weights.
class LoadedImportance {
 public:
  // `out` has room for N groups.
  LoadedImportance(const GroupBlock& block, const simd::Scratch& scratch, float* out)
      : block_(block), scratch_(scratch), out_(out) {}

  // Groups [first, first + count); lanes beyond `count` repeat group `first`. Vectors of groups that lie in the same
  // columns share it. The scratch rows are overwritten.
  void Load(size_t first, size_t count) {
    const ColumnWeights& columns = block_.importance;
    const size_t elems = static_cast<size_t>(block_.group_elems);
    if (columns.h == nullptr) {
      for (size_t k = 0; k < elems; ++k) hn::Store(hn::Set(kDF, 1.0F), kDF, out_ + k * kLanes);
      return;
    }
    const size_t cols = static_cast<size_t>(columns.cols);
    const auto col_of = [&](size_t group) { return (static_cast<size_t>(columns.first_col) + group * elems) % cols; };
    if (count == kLanes && full_ && col_of(first) == col_) return;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const size_t group = first + (lane < count ? lane : 0);
      CopyImportance(columns, col_of(group), elems, scratch_.rows + lane * scratch_.stride);
    }
    for (size_t k = 0; k < elems; k += 4) TransposeFour(scratch_.rows, scratch_.stride, k, out_);
    col_ = col_of(first);
    full_ = count == kLanes;
  }

 private:
  const GroupBlock& block_;
  const simd::Scratch& scratch_;
  float* out_;
  size_t col_ = 0;     // where the groups at `out_` begin
  bool full_ = false;  // whether N groups are there
};

// What one element adds to the sums behind the weighted means of weights and codes: h, h·w and h·q.
struct MeanTerms {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT h;
  VF S, z, qmax;

  HWY_INLINE Sums<3> operator()(size_t k) const {
    const VF weight = hn::Load(kDF, w + k * kLanes);
    const VF q = hn::Min(hn::Max(hn::Round(hn::Add(hn::Mul(weight, S), z)), hn::Zero(kDF)), qmax);
    Sums<3> out;
    out.x[0] = hn::Load(kDF, h + k * kLanes);
    out.x[1] = hn::Mul(out.x[0], weight);
    out.x[2] = hn::Mul(out.x[0], q);
    return out;
  }
};

// What one element adds to the weighted errors of given codes: h·e² and h·w².
struct WeightedErrors {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT codes;
  const float* HWY_RESTRICT h;
  VF s, z;

  HWY_INLINE Sums<2> operator()(size_t k) const {
    const VF weight = hn::Load(kDF, w + k * kLanes), hk = hn::Load(kDF, h + k * kLanes);
    const VF e = hn::Sub(weight, hn::Mul(hn::Sub(hn::Load(kDF, codes + k * kLanes), z), s));
    Sums<2> out;
    out.x[0] = hn::Mul(hn::Mul(hk, e), e);
    out.x[1] = hn::Mul(hn::Mul(hk, weight), weight);
    return out;
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
