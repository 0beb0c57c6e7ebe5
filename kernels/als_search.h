#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/quant_spec.h"

namespace halfquad {

/// The searches of SolverKind::kAls. First: for the S = 1/s and z of a group, w = (q - z) s, that make sum h (w - (q -
/// z) s)² small. From each of `starts` parts of the group's range, `rounds` fits at most follow: derive the codes q =
/// clamp(rint(w·S + z)), fit S and z to them by weighted least squares. A start ends early when a fit has no solution
/// or repeats. No such round makes the sum larger, so a start is scored at its end; the first start, which is round to
/// nearest, at its beginning too: no group gets worse than that. The best pair is kept, of equal ones the earlier.
///
/// What is canonical. All in fp32, every operation rounded once, none fused unless its product is exact:
/// - A sum over a group: element k goes to running sum k mod 4 in index order from 0; the sum is
///   (s0 + s2) + (s1 + s3).
/// - Beginning: half = range/2, mid = lo/2 + hi/2, mean = sum h·w / sum h kept within lo..hi; s1 = range / qmax,
///   S1 = 1 / s1; d = (w - mean)·S1; up to 4 bits, b being those of qmax, h' = h rounded to 24 - 2b bits and
///   p = h'·d rounded to 24 - b bits, above that h' = h and p = h'·d. H = 1 / sum h', P = sum p, offset = P·H.
/// - A start: S = 1 / ((range·part) / qmax), z = (half·part - mid)·S.
/// - A fit: c = the code of the mean, clamp(rint(mean·S + z)); q = clamp(rint(w·S + (z - c)), -c, qmax - c);
///   A = sum h'·q, B = sum (h'·q)·q, C = sum p·q; m = A·H, den = B - A·m, num = C - P·m. Both must be positive.
///   S = S1·(den / num); z = ((c + m) - mean·S) - offset·(s1·S). Since weights and codes are counted from their
///   means, nothing cancels even where one column has nearly all of the importance. Up to 4 bits the products are
///   exact, and fusing them makes no difference; a fit from an h that is 2^-17 off is as good. At 8 bits, where only
///   8 bits of h would be left, it is not.
/// - A score: e = w·S + z - q with q = clamp(rint(w·S + z)), sum (h·e)·e over (S·s1)²: a sum of squares of what the
///   codes leave, which has nothing to cancel.
/// Against the same search in 113 bits of precision, with every round scored, the objective of a tensor differs by less
/// than 1e-5 relative, mostly by 1e-8 (Gaussian, heavy-tailed and trained weights, importance over up to 7 decades).
///
/// Whole zeros (QuantSpec::zeros) where columns are weighed. The range is extended to contain 0, for a symmetric zero
/// to the same distance on both sides; length and middle are the extended range's. Canonical, with sums and codes as
/// above:
/// - Candidates: for every start s = (length·part) / qmax, S = 1 / s, and z = rint((half of length·part - middle) / s),
///   then z - 1 and z + 1, as far as these are codes; or the symmetric zero. The first is round to nearest.
/// - A look at S and z: e = w·S + z - q, d = q - z; E = sum (h·e)·e, A = sum (h·d)·w, B = sum (h·d)·d. The score is
///   E / (S·s1)², s1 = length / qmax; the S that fits is B/A, if A > 0. No term of A is negative, so nothing cancels.
/// - A round: a candidate is looked at with the S that fits and takes it over if that lowers its score. After one round
///   of each the kKept of the smallest scores, of equal ones the earlier, go on, in this order, for the other rounds.
///   The smallest is the result.
struct AlsSearch {
  static constexpr int kKept = 5;
  static constexpr float kAside[] = {0, -1, 1};  ///< Of a start's own zero.
  static constexpr float kNarrowest = 1e-9F;     ///< A range up to this counts as constant: S = 1, z = 0 - mean.
  static constexpr double kLastPart = 0.6;       ///< Starts are spread evenly from the whole range down to this part.

  /// Part of the range that start `i` of `starts` covers.
  [[nodiscard]] static float part(int i, int starts) noexcept {
    return starts < 2 ? 1.0F : static_cast<float>(1 - (1 - kLastPart) * i / (starts - 1));
  }
  /// Whether the products of a fit are exact.
  [[nodiscard]] static bool cuts(CodeWidth width) noexcept { return qmax(width) < 16; }
  /// Low bits of h and of p that are rounded away for that.
  [[nodiscard]] static int cut_bits_of_h(CodeWidth width) noexcept { return cuts(width) ? 2 * code_bits(width) : 0; }
  [[nodiscard]] static int cut_bits_of_p(CodeWidth width) noexcept { return cuts(width) ? code_bits(width) : 0; }

  /// `value` rounded to a multiple of 2^bits of its last places, halves away from zero.
  [[nodiscard]] static float cut(float value, int bits) noexcept {
    if (bits == 0) return value;
    const auto raw = std::bit_cast<std::uint32_t>(value) + (std::uint32_t{1} << (bits - 1));
    return std::bit_cast<float>(raw & ~std::uint32_t{0} << bits);
  }

 private:
  [[nodiscard]] static int code_bits(CodeWidth width) noexcept {
    return static_cast<int>(std::bit_width(static_cast<unsigned>(qmax(width))));
  }
};

}  // namespace halfquad
