#pragma once

#include <cstdint>
#include <vector>

#include "sharding/forward/panels.h"

namespace halfquad {

/// The tokens that pass one expert.
struct ExpertTokens {
  std::vector<std::int64_t> tokens;
  std::vector<float> weights;  ///< Of the expert's result in each token's sum.
  std::int64_t routed = 0;     ///< How many, from the first on, the router sent here; the others' weights are 0.
};

/// Tokens that an expert is measured with at least, where the batch has so many.
inline constexpr std::int64_t kFewestExpertTokens = 32;

/// How the router's numbers become a choice.
struct RoutingKind {
  std::int64_t experts_per_token = 1;
  bool normalizes = false;  ///< The chosen experts' weights sum up to 1.
  /// An expert with fewer tokens measures those too that come next in its favour, up to this number.
  std::int64_t fewest_tokens = kFewestExpertTokens;
};

/// Softmax over the experts of each token, and the likeliest of them; the first of equals. `logits` has a feature for
/// each expert. The routed tokens of an expert ascend.
[[nodiscard]] std::vector<ExpertTokens> route(const Panels& logits, const RoutingKind& kind);

}  // namespace halfquad
