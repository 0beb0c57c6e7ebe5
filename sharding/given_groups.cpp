#include "sharding/given_groups.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sharding/code_values.h"
#include "sharding/coded_elements.h"

namespace halfquad {

float symmetric_zero(CodeWidth width) noexcept { return static_cast<float>((qmax(width) + 1) / 2); }

void GivenGroups::assign(const GroupBlock& block, std::int64_t group_stride, std::int64_t element_stride,
                         const float* levels) {
  const CodeValues value(levels);
  groups_ = block.groups;
  group_elems_ = block.group_elems;
  group_stride_ = group_stride;
  element_stride_ = element_stride;
  codes.resize(static_cast<std::size_t>(groups_ * group_elems_));
  weights.resize(codes.size());
  scale.resize(static_cast<std::size_t>(groups_));
  zero.resize(scale.size());
  finite = true;
  const auto element = [&](std::int64_t group, std::int64_t k) {
    CodedElement found;
    const std::int64_t at = group * block.group_stride + k * block.element_stride;
    std::memcpy(&found, block.data + at * static_cast<std::int64_t>(sizeof found), sizeof found);
    return found;
  };
  for (std::int64_t group = 0; group < groups_; ++group) {
    CodedGrid grid;
    for (std::int64_t k = 0; k < kCodedGridElements; ++k) grid.set_part(k, element(group, k).part);
    const float s = grid.scale();
    const float z = grid.zero();
    scale[static_cast<std::size_t>(group)] = s;
    zero[static_cast<std::size_t>(group)] = z;
    bool group_finite = std::isfinite(s) && std::isfinite(z);
    for (std::int64_t k = 0; k < group_elems_; ++k) {
      const std::uint8_t code = element(group, k).code;
      const float weight = (value(code) - z) * s;
      codes[place(group, k)] = code;
      weights[place(group, k)] = weight;
      group_finite = group_finite && std::isfinite(weight);
    }
    finite = finite && group_finite;
  }
}

GroupBlock GivenGroups::block() const noexcept {
  return {reinterpret_cast<const std::byte*>(weights.data()),
          DType::kF32,
          groups_,
          group_elems_,
          group_stride_,
          element_stride_};
}

std::optional<float> GivenGroups::zero_for(std::int64_t group, CodeWidth width, ZeroKind zeros) const noexcept {
  const float z = zero[static_cast<std::size_t>(group)];
  const auto most = static_cast<float>(qmax(width));
  if (zeros == ZeroKind::kFloat) return z;
  if (z != std::floor(z)) return std::nullopt;
  if (zeros == ZeroKind::kInteger) return z >= 0 && z <= most ? std::optional(z) : std::nullopt;
  const float middle = symmetric_zero(width);
  for (std::int64_t k = 0; k < group_elems_; ++k) {
    const float shifted = static_cast<float>(codes[place(group, k)]) + (middle - z);
    if (shifted < 0 || shifted > most) return std::nullopt;
  }
  return middle;
}

void GivenGroups::copy_codes(std::int64_t group, std::uint8_t* out) const noexcept {
  for (std::int64_t k = 0; k < group_elems_; ++k) out[place(group, k)] = codes[place(group, k)];
}

}  // namespace halfquad
