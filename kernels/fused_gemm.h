#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace halfquad {

/// Columns that lie side by side: a matrix of activations is stored as panels of so many tokens, each [features,
/// kPanelTokens], whatever the vectors of this machine hold.
inline constexpr std::int64_t kPanelTokens = 64;

/// A matrix times panels.
struct FusedProduct {
  const float* weights = nullptr;  ///< [rows, depth], back to back.
  std::int64_t rows = 0, depth = 0;
  const float* inputs = nullptr;  ///< Panel p is [depth, kPanelTokens] at inputs + p * input_stride.
  std::int64_t input_stride = 0;
  float* outputs = nullptr;  ///< Panel p is [rows, kPanelTokens] at outputs + p * output_stride; need not be set.
  std::int64_t output_stride = 0;
  std::int64_t panels = 0;
};

/// Computes every output as fma(w[d-1], x[d-1], ... fma(w[1], x[1], fma(w[0], x[0], 0))): one fp32 accumulator, one
/// order, one rounding a step. So the bytes are the same on every SIMD target; those without fused hardware take the C
/// library's fma and are slow.
using FusedMultiply = void (*)(const FusedProduct& product);

/// For the best SIMD target of this machine, or for the one of that name, as simd_targets() lists them. Throws kUsage
/// when it is not there.
[[nodiscard]] FusedMultiply fused_multiply(const std::optional<std::string>& target = std::nullopt);

/// The same as plain loops: the definition.
void multiply_fused_plain(const FusedProduct& product);

}  // namespace halfquad
