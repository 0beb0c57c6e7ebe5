#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/fused_gemm.h"
#include "runtime/buffer_pool.h"

namespace halfquad {

/// Activations: `features` numbers for each of some tokens, in panels of kPanelTokens tokens, each [features,
/// kPanelTokens]. Lanes behind the last token hold numbers that mean nothing; at first 0.
class Panels {
 public:
  Panels() = default;
  /// Throws kOutOfMemory when the pool has no room.
  Panels(BufferPool& pool, std::int64_t features, std::int64_t tokens);

  [[nodiscard]] std::int64_t features() const noexcept { return features_; }
  [[nodiscard]] std::int64_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::int64_t panels() const noexcept { return (tokens_ + kPanelTokens - 1) / kPanelTokens; }
  /// Elements from one panel to the next.
  [[nodiscard]] std::int64_t stride() const noexcept { return features_ * kPanelTokens; }
  [[nodiscard]] float* panel(std::int64_t index) const noexcept { return data_ + index * stride(); }
  /// The numbers of one feature for the tokens of a panel.
  [[nodiscard]] float* row(std::int64_t panel_index, std::int64_t feature) const noexcept {
    return panel(panel_index) + feature * kPanelTokens;
  }
  [[nodiscard]] float& at(std::int64_t feature, std::int64_t token) const noexcept {
    return row(token / kPanelTokens, feature)[token % kPanelTokens];
  }
  /// Tokens in a panel.
  [[nodiscard]] std::int64_t tokens_in(std::int64_t panel_index) const noexcept {
    const std::int64_t left = tokens_ - panel_index * kPanelTokens;
    return left < kPanelTokens ? left : kPanelTokens;
  }

  /// These tokens alone, in this order.
  [[nodiscard]] Panels select(BufferPool& pool, std::span<const std::int64_t> tokens) const;
  /// Mean square of every feature over the tokens: sums in double, in the order of the tokens.
  [[nodiscard]] std::vector<float> mean_squares() const;

 private:
  Buffer buffer_;
  float* data_ = nullptr;
  std::int64_t features_ = 0, tokens_ = 0;
};

}  // namespace halfquad
