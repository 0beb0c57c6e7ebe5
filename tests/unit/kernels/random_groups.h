#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/solver.h"

namespace halfquad::test {

/// What the weights of a block look like.
enum class Weights {
  kGauss,
  kHeavyTails,
  kPerGroupScale,  ///< Groups of very different scale side by side: some shrink, some do not.
  kOffset,
  kTies,
  kConstant,
  kSignedZeros,
  kDenormal,
  kHuge,
};
inline constexpr int kWeightsKinds = 9;
[[nodiscard]] std::string name_of(Weights kind);

/// How a random block is laid out; the padding is between groups (axis 1) or between elements (axis 0).
struct BlockShape {
  std::int64_t groups = 1;
  std::int64_t group_elems = 1;
  int axis = 1;
  std::int64_t padding = 0;
};

/// A block of random weights and the memory it lies in, misaligned by a random number of bytes.
class RandomBlock {
 public:
  RandomBlock(std::mt19937_64& random, const BlockShape& shape, DType dtype, Weights kind, double scale);

  [[nodiscard]] const GroupBlock& block() const noexcept { return block_; }
  /// Elements the block spans, padding included.
  [[nodiscard]] std::int64_t span_elems() const noexcept { return span_; }
  /// Overwrites element k of group g.
  void set(std::int64_t g, std::int64_t k, double value);

 private:
  std::vector<std::byte> memory_;
  GroupBlock block_;
  std::size_t offset_ = 0;
  std::int64_t span_ = 0;
};

/// One double per element of the block in group order: element k of group g at [g * group_elems + k].
[[nodiscard]] std::vector<double> random_weights(std::mt19937_64& random, const BlockShape& shape, Weights kind,
                                                 double scale);

}  // namespace halfquad::test
