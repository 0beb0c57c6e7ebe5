#include "tests/unit/kernels/random_groups.h"

#include <cmath>
#include <cstring>

#include "kernels/decode.h"

namespace halfquad::test {
namespace {

double one_weight(std::mt19937_64& random, Weights kind, double scale) {
  std::normal_distribution<double> gauss;
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  switch (kind) {
    case Weights::kGauss:
      return scale * gauss(random);
    case Weights::kHeavyTails:
      return scale * gauss(random) / std::sqrt(0.01 + uniform(random));
    case Weights::kPerGroupScale:
      return gauss(random);
    case Weights::kOffset:
      return 100 * scale + 0.1 * scale * gauss(random);
    case Weights::kTies:
      return 0.5 * std::nearbyint(4 * gauss(random));
    case Weights::kConstant:
      return scale;
    case Weights::kSignedZeros: {
      const double kindness = uniform(random);
      if (kindness < 0.2) return scale * std::abs(gauss(random));
      return kindness < 0.6 ? 0.0 : -0.0;
    }
    case Weights::kDenormal:
      return 0x1p-140 * gauss(random);
    case Weights::kHuge:
      return 1e30 * gauss(random);
  }
  return 0;
}

}  // namespace

std::string name_of(Weights kind) {
  constexpr const char* kNames[] = {"gauss",    "heavy tails",  "per-group scale", "offset", "ties",
                                    "constant", "signed zeros", "denormal",        "huge"};
  return kNames[static_cast<int>(kind)];
}

std::vector<double> random_weights(std::mt19937_64& random, const BlockShape& shape, Weights kind, double scale) {
  std::uniform_real_distribution<double> decades(-4.0, 1.5);
  std::vector<double> out;
  for (std::int64_t g = 0; g < shape.groups; ++g) {
    const double group_scale = kind == Weights::kPerGroupScale ? std::pow(10.0, decades(random)) : 1.0;
    for (std::int64_t k = 0; k < shape.group_elems; ++k) out.push_back(group_scale * one_weight(random, kind, scale));
  }
  return out;
}

RandomBlock::RandomBlock(std::mt19937_64& random, const BlockShape& shape, DType dtype, Weights kind, double scale)
    : offset_(random() % 8) {
  const bool along_rows = shape.axis == 1;
  block_ = {.dtype = dtype,
            .groups = shape.groups,
            .group_elems = shape.group_elems,
            .group_stride = along_rows ? shape.group_elems + shape.padding : 1,
            .element_stride = along_rows ? 1 : shape.groups + shape.padding};
  span_ = (shape.groups - 1) * block_.group_stride + (shape.group_elems - 1) * block_.element_stride + 1;
  memory_.resize(offset_ + static_cast<std::size_t>(span_ * bytes_of(dtype)));
  block_.data = memory_.data() + offset_;

  const std::vector<double> weights = random_weights(random, shape, kind, scale);
  std::size_t next = 0;
  for (std::int64_t g = 0; g < shape.groups; ++g) {
    for (std::int64_t k = 0; k < shape.group_elems; ++k) set(g, k, weights[next++]);
  }
}

void RandomBlock::set(std::int64_t g, std::int64_t k, double value) {
  const std::int64_t at = g * block_.group_stride + k * block_.element_stride;
  std::byte* const to = memory_.data() + offset_ + at * bytes_of(block_.dtype);
  if (block_.dtype == DType::kF64) {
    std::memcpy(to, &value, sizeof value);
    return;
  }
  const auto narrow = static_cast<float>(value);
  encode_from_f32(&narrow, block_.dtype, 1, to);
}

}  // namespace halfquad::test
