#include "sharding/forward/panels.h"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {

Panels::Panels(BufferPool& pool, std::int64_t features, std::int64_t tokens) : features_(features), tokens_(tokens) {
  if (features == 0 || tokens == 0) return;
  const auto elements = static_cast<std::size_t>(stride() * panels());
  buffer_ = pool.try_acquire(elements * sizeof(float));
  HALFQUAD_REQUIRE(
      !buffer_.empty(), kOutOfMemory,
      fmt::format("the activations of {} tokens do not fit into {}; pass a larger --memory or fewer tokens", tokens,
                  human_bytes(pool.budget_bytes())));
  data_ = reinterpret_cast<float*>(buffer_.bytes().data());
  std::fill_n(data_, elements, 0.0F);
}

Panels Panels::select(BufferPool& pool, std::span<const std::int64_t> tokens) const {
  Panels chosen(pool, features_, static_cast<std::int64_t>(tokens.size()));
  for (std::int64_t i = 0; i < chosen.tokens(); ++i) {
    const std::int64_t from = tokens[static_cast<std::size_t>(i)];
    const float* const source = panel(from / kPanelTokens) + from % kPanelTokens;
    float* const target = chosen.panel(i / kPanelTokens) + i % kPanelTokens;
    for (std::int64_t f = 0; f < features_; ++f) target[f * kPanelTokens] = source[f * kPanelTokens];
  }
  return chosen;
}

std::vector<float> Panels::mean_squares() const {
  std::vector<double> sums(static_cast<std::size_t>(features_));
  for (std::int64_t p = 0; p < panels(); ++p) {
    for (std::int64_t f = 0; f < features_; ++f) {
      const float* const values = row(p, f);
      double sum = sums[static_cast<std::size_t>(f)];
      for (std::int64_t lane = 0; lane < tokens_in(p); ++lane) sum += double{values[lane]} * double{values[lane]};
      sums[static_cast<std::size_t>(f)] = sum;
    }
  }
  std::vector<float> means;
  for (const double sum : sums) means.push_back(static_cast<float>(sum / static_cast<double>(tokens_)));
  return means;
}

}  // namespace halfquad
