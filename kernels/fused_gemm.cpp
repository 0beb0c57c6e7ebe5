#include "kernels/fused_gemm.h"

#include <array>
#include <cmath>
#include <cstddef>

namespace halfquad {

void multiply_fused_plain(const FusedProduct& product) {
  for (std::int64_t panel = 0; panel < product.panels; ++panel) {
    for (std::int64_t row = 0; row < product.rows; ++row) {
      std::array<float, kPanelTokens> sums{};
      const float* input = product.inputs + panel * product.input_stride;
      const float* const weights = product.weights + row * product.depth;
      for (std::int64_t d = 0; d < product.depth; ++d, input += kPanelTokens) {
        for (std::size_t lane = 0; lane < sums.size(); ++lane)
          sums[lane] = std::fma(weights[d], input[lane], sums[lane]);
      }
      float* const output = product.outputs + panel * product.output_stride + row * kPanelTokens;
      for (std::size_t lane = 0; lane < sums.size(); ++lane) output[lane] = sums[lane];
    }
  }
}

}  // namespace halfquad
