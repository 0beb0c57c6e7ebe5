#include "sharding/forward/routing.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "kernels/portable_math.h"

namespace halfquad {
namespace {

/// Probabilities of all experts for one token, from their logits.
void softmax(std::vector<double>& values) {
  const double most = *std::ranges::max_element(values);
  for (double& value : values) value = portable::exp(value - most);
  double sum = 0;
  for (const double value : values) sum += value;
  for (double& value : values) value /= sum;
}

/// Indices of the `count` greatest, the first of equals first.
std::vector<std::size_t> greatest(const std::vector<double>& values, std::size_t count) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  count = std::min(count, order.size());
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
      [&](std::size_t a, std::size_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; });
  order.resize(count);
  return order;
}

/// Adds tokens that were not routed to the expert, likeliest first. `likelihoods`: of this expert, by token.
void fill_up(ExpertTokens& expert, const std::vector<double>& likelihoods, std::size_t wanted) {
  for (const std::size_t token : greatest(likelihoods, likelihoods.size())) {
    if (expert.tokens.size() >= wanted) return;
    const auto routed_end = expert.tokens.begin() + expert.routed;
    if (std::find(expert.tokens.begin(), routed_end, static_cast<std::int64_t>(token)) != routed_end) continue;
    expert.tokens.push_back(static_cast<std::int64_t>(token));
    expert.weights.push_back(0);
  }
}

}  // namespace

std::vector<ExpertTokens> route(const Panels& logits, const RoutingKind& kind) {
  const auto count = static_cast<std::size_t>(logits.features());
  std::vector<ExpertTokens> experts(count);
  std::vector<std::vector<double>> likelihoods(count);  // by expert and token
  for (std::int64_t token = 0; token < logits.tokens(); ++token) {
    std::vector<double> values(count);
    for (std::size_t e = 0; e < count; ++e) values[e] = double{logits.at(static_cast<std::int64_t>(e), token)};
    softmax(values);
    const std::vector<std::size_t> chosen = greatest(values, static_cast<std::size_t>(kind.experts_per_token));
    double sum = 0;
    for (const std::size_t e : chosen) sum += values[e];
    for (const std::size_t e : chosen) {
      experts[e].tokens.push_back(token);
      experts[e].weights.push_back(static_cast<float>(kind.normalizes ? values[e] / sum : values[e]));
      ++experts[e].routed;
    }
    for (std::size_t e = 0; e < count; ++e) likelihoods[e].push_back(values[e]);
  }
  for (std::size_t e = 0; e < count; ++e) {
    if (experts[e].routed < kind.fewest_tokens) {
      fill_up(experts[e], likelihoods[e], static_cast<std::size_t>(kind.fewest_tokens));
    }
  }
  return experts;
}

}  // namespace halfquad
