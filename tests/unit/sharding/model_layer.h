#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "kernels/quant_spec.h"
#include "sharding/output_layout.h"

namespace halfquad::test {

/// A layer of a test's model that is to be quantized.
struct ModelLayer {
  std::string module;
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::kBF16;
  QuantSpec spec;
};

/// Quantizes `layers` and keeps every other tensor.
[[nodiscard]] inline std::vector<Decision> decisions_for(const Checkpoint& checkpoint,
                                                         const std::vector<ModelLayer>& layers) {
  std::vector<Decision> decisions;
  for (std::size_t i = 0; i < checkpoint.tensors().size(); ++i) {
    Decision decision;
    decision.source = i;
    decision.keep = KeepReason::kNotAWeight;
    for (const ModelLayer& layer : layers) {
      if (checkpoint.tensors()[i].name != layer.module + ".weight") continue;
      decision.keep = KeepReason::kNone;
      decision.spec = layer.spec;
    }
    decisions.push_back(std::move(decision));
  }
  return decisions;
}

}  // namespace halfquad::test
