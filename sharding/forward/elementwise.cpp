#include "sharding/forward/elementwise.h"

#include <array>
#include <cmath>
#include <cstddef>

#include "kernels/portable_math.h"
#include "runtime/parallel.h"

namespace halfquad {
namespace {

constexpr auto kLanes = static_cast<std::size_t>(kPanelTokens);

/// The norm of one run of features of a panel.
void norm_run(const float* in, std::span<const float> weights, const NormKind& kind, float* out) {
  std::array<double, kLanes> factors{};
  for (std::size_t f = 0; f < weights.size(); ++f) {
    const float* const x = in + f * kLanes;
    for (std::size_t lane = 0; lane < kLanes; ++lane) factors[lane] += double{x[lane]} * double{x[lane]};
  }
  for (double& factor : factors) factor = 1 / std::sqrt(factor / static_cast<double>(weights.size()) + kind.epsilon);
  for (std::size_t f = 0; f < weights.size(); ++f) {
    const float weight = kind.adds_one ? 1 + weights[f] : weights[f];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const std::size_t at = f * kLanes + lane;
      out[at] = static_cast<float>(double{in[at]} * factors[lane]) * weight;
    }
  }
}

}  // namespace

void rms_norm(const Workers& workers, const Panels& in, std::span<const float> weights, const NormKind& kind,
              const Panels& out) {
  const auto width = static_cast<std::int64_t>(weights.size());
  const std::int64_t runs = in.features() / width;
  parallel_for(workers.threads, in.panels() * runs, workers.stop, [&](int, std::int64_t index) {
    const std::int64_t first = index % runs * width;
    norm_run(in.row(index / runs, first), weights, kind, out.row(index / runs, first));
  });
}

void add(const Workers& workers, const Panels& to, const Panels& from) {
  parallel_for(workers.threads, to.panels(), workers.stop, [&](int, std::int64_t index) {
    float* const sum = to.panel(index);
    const float* const more = from.panel(index);
    for (std::int64_t i = 0; i < to.stride(); ++i) sum[i] += more[i];
  });
}

void apply_gate(GateFunction function, const float* gate, float* up, std::int64_t count) {
  if (function == GateFunction::kSilu) {
    for (std::int64_t i = 0; i < count; ++i) up[i] = portable::silu(gate[i]) * up[i];
  } else {
    for (std::int64_t i = 0; i < count; ++i) up[i] = portable::gelu_tanh(gate[i]) * up[i];
  }
}

RopeTable::RopeTable(const RopeTurns& turns, std::int64_t positions)
    : pairs_(static_cast<std::int64_t>(turns.inverse_frequencies.size())) {
  for (std::int64_t position = 0; position < positions; ++position) {
    for (const double frequency : turns.inverse_frequencies) {
      const portable::SinCos turn = portable::sin_cos(static_cast<double>(position) * frequency);
      sin_.push_back(static_cast<float>(turn.sin * turns.scale));
      cos_.push_back(static_cast<float>(turn.cos * turns.scale));
    }
  }
}

void RopeTable::apply(const Workers& workers, const Panels& heads, std::int64_t size,
                      std::span<const std::int64_t> positions) const {
  const std::int64_t count = heads.features() / size;
  parallel_for(workers.threads, heads.panels() * count, workers.stop, [&](int, std::int64_t index) {
    const std::int64_t panel = index / count;
    const std::int64_t first = index % count * size;
    for (std::int64_t lane = 0; lane < heads.tokens_in(panel); ++lane) {
      const std::int64_t position = positions[static_cast<std::size_t>(panel * kPanelTokens + lane)];
      const auto turn = static_cast<std::size_t>(position * pairs_);
      for (std::int64_t pair = 0; pair < pairs_; ++pair) {
        float& a = heads.row(panel, first + pair)[lane];
        float& b = heads.row(panel, first + pair + pairs_)[lane];
        const float sin = sin_[turn + static_cast<std::size_t>(pair)];
        const float cos = cos_[turn + static_cast<std::size_t>(pair)];
        const float turned = a * cos - b * sin;
        b = b * cos + a * sin;
        a = turned;
      }
    }
  });
}

}  // namespace halfquad
