#include "sharding/stored_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/decode.h"

namespace halfquad {
namespace {

// The smallest positive value of F16; every other stored dtype goes below what fp32 scales need.
constexpr float kLeastScale = 0x1p-24F;

}  // namespace

bool StoredGrid::round(DType stored, std::vector<float>& values) {
  bytes_.resize(values.size() * sizeof(float));
  encode_from_f32(values.data(), stored, static_cast<std::int64_t>(values.size()), bytes_.data());
  decode_to_f32(bytes_.data(), stored, static_cast<std::int64_t>(values.size()), values.data());
  // As integers magnitudes order alike, NaN above infinity.
  std::int32_t largest = 0;
  for (const float value : values) largest = std::max(largest, std::bit_cast<std::int32_t>(std::abs(value)));
  return std::isfinite(std::bit_cast<float>(largest));
}

bool StoredGrid::assign(const GridForm& form, ZeroKind zeros, DType stored, const float* s, const float* z,
                        std::size_t count) {
  if (!take(form, zeros, stored, s, z, count) || !round_scale(stored, scale)) return false;
  derive(form);
  return true;
}

bool StoredGrid::round_scale(DType stored, std::vector<float>& values) {
  if (!round(stored, values)) return false;
  for (float& value : values) value = std::max(value, kLeastScale);
  return true;
}

bool StoredGrid::adopt(const GridForm& form, ZeroKind zeros, DType stored, const float* s, const float* z,
                       std::size_t count) {
  if (!take(form, zeros, stored, s, z, count)) return false;
  for (float& value : scale) {
    if (std::abs(value) < std::numeric_limits<float>::min()) value = std::copysign(kLeastScale, value);
  }
  derive(form);
  return true;
}

// Everything but the least scale.
bool StoredGrid::take(const GridForm& form, ZeroKind zeros, DType stored, const float* s, const float* z,
                      std::size_t count) {
  scale.assign(s, s + count);
  second.assign(z, z + count);
  if (form.second == GridForm::Second::kOffset) {
    for (std::size_t i = 0; i < count; ++i) second[i] = form.middle == 0 ? -s[i] * z[i] : (form.middle - z[i]) * s[i];
  }
  const bool whole = form.second == GridForm::Second::kZero && zeros != ZeroKind::kFloat;
  return round(stored, scale) && (whole || round(stored, second));
}

void StoredGrid::derive(const GridForm& form) {
  const std::size_t count = scale.size();
  zero = second;
  inverse.resize(count);
  if (form.second == GridForm::Second::kOffset) {
    for (std::size_t i = 0; i < count; ++i) zero[i] = form.middle - second[i] / scale[i];
  }
  for (std::size_t i = 0; i < count; ++i) inverse[i] = 1 / scale[i];
}

}  // namespace halfquad
