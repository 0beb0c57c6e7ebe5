#pragma once

#include <cstddef>
#include <memory>

namespace halfquad::simd {

/// The weights of one vector of groups. In the end the codes, as floats, take the place of `ws` or `clamped`, whichever
/// they are derived from.
struct WeightLanes {
  float* w = nullptr;        ///< Element k of all groups at k * lanes.
  float* ws = nullptr;       ///< w · S in the same order.
  float* clamped = nullptr;  ///< w · S moved to where it needs no clamping once z is added.
};

/// Groups larger than this are solved one vector at a time: two would no longer fit the first-level cache.
inline constexpr std::size_t kMostPairedElems = 128;

/// Scratch memory of one SIMD solver, grown when a larger group or more steps come up. Compiled once for the baseline
/// instruction set: library templates instantiated in per-target code could run on a CPU that lacks the target.
class Scratch {
 public:
  /// `lanes`: fp32 values in one vector of the target.
  explicit Scratch(std::size_t lanes) : lanes_(lanes) {}

  /// Room for `lanes` groups of `elems` weights and `slots` exact sums. Throws std::bad_alloc.
  void reserve(std::size_t elems, std::size_t slots);

  float* rows = nullptr;   ///< `lanes` decoded groups as they lie in the source, `stride` floats apart.
  WeightLanes weights[2];  ///< The second has room for groups up to kMostPairedElems alone.
  std::size_t stride = 0;  ///< A multiple of `lanes`, at least any group size reserved so far.
  double* sums = nullptr;  ///< `lanes` doubles a slot.
  float* low = nullptr;    ///< One a slot.
  float* high = nullptr;

 private:
  struct AlignedFree {
    void operator()(void* p) const noexcept;
  };
  using Block = std::unique_ptr<std::byte[], AlignedFree>;
  static Block allocate(std::size_t bytes);

  std::size_t lanes_, elems_ = 0, slots_ = 0;
  Block weights_, sums_;
};

}  // namespace halfquad::simd
