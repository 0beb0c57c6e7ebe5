#include "sharding/synth_fill.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/fp8.h"
#include "kernels/mxfp4.h"

namespace halfquad {
namespace {

constexpr float kWeightDeviation = 0.02F;  // what Llama models are initialized with
constexpr float kNormDeviation = 0.1F;

// So that hardly a number of the 65536 quantiles is cut off: the largest is 4.3.
constexpr float kE4M3Deviation = 96.0F;
constexpr float kE2M1Deviation = 1.5F;
constexpr float kFp8Scale = kWeightDeviation / kE4M3Deviation;
constexpr float kMxfp4ScaleCode = 120.5F;  // 2^-6.5 * 1.5 is near enough to the deviation of weights

/// Calls put(byte, numbers) for each byte of `out`, numbers being its `per_byte` Gaussian numbers.
template <class Put>
void fill_bytes(const GaussianSource& source, const TensorEntry& tensor, std::uint64_t per_byte, std::uint64_t offset,
                std::span<std::byte> out, Put put) {
  std::array<float, 4096> numbers;
  const std::uint64_t bytes_at_once = numbers.size() / per_byte;
  for (std::uint64_t done = 0; done < out.size(); done += bytes_at_once) {
    const std::uint64_t bytes = std::min<std::uint64_t>(bytes_at_once, out.size() - done);
    source.fill(tensor.name, (offset + done) * per_byte,
                std::as_writable_bytes(std::span(numbers).first(bytes * per_byte)));
    for (std::uint64_t i = 0; i < bytes; ++i) put(out[done + i], numbers.data() + i * per_byte);
  }
}

std::byte mxfp4_scale(float number) {
  return static_cast<std::byte>(static_cast<int>(std::nearbyint(kMxfp4ScaleCode + 0.5F * number)));
}

}  // namespace

SynthFiller::SynthFiller(std::uint64_t seed, DType dtype)
    : weights_(seed, dtype, 0.0F, kWeightDeviation),
      norms_(seed, dtype, 1.0F, kNormDeviation),
      codes_(seed, DType::kF32, 0.0F, 1.0F),
      scales_(seed, DType::kF32, kFp8Scale, kFp8Scale / 10) {}

void SynthFiller::fill(const TensorEntry& tensor, std::uint64_t offset, std::span<std::byte> out) const {
  const std::string& name = tensor.name;
  if (tensor.dtype == DType::kF8E4M3) {
    fill_bytes(codes_, tensor, 1, offset, out, [](std::byte& byte, const float* numbers) {
      byte = static_cast<std::byte>(f32_to_e4m3(numbers[0] * kE4M3Deviation));
    });
  } else if (tensor.dtype == DType::kU8 && name.ends_with("_blocks")) {
    fill_bytes(codes_, tensor, 2, offset, out, [](std::byte& byte, const float* numbers) {
      const std::uint32_t low = f32_to_e2m1(numbers[0] * kE2M1Deviation);
      const std::uint32_t high = f32_to_e2m1(numbers[1] * kE2M1Deviation);
      byte = static_cast<std::byte>(low | high << 4U);
    });
  } else if (tensor.dtype == DType::kU8) {
    fill_bytes(codes_, tensor, 1, offset, out,
               [](std::byte& byte, const float* numbers) { byte = mxfp4_scale(numbers[0]); });
  } else {
    const bool is_bias = name.ends_with(".bias") || name.ends_with(".sinks");
    const bool is_norm = tensor.shape.size() == 1 && !is_bias;
    const GaussianSource& source = name.ends_with("_scale_inv") ? scales_ : is_norm ? norms_ : weights_;
    source.fill(name, offset / static_cast<std::uint64_t>(bytes_of(tensor.dtype)), out);
  }
}

}  // namespace halfquad
