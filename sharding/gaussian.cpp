#include "sharding/gaussian.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/decode.h"
#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr std::size_t kQuantiles = 65536;
constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15;

// splitmix64's finalizer: a bijection whose output bits all depend on all input bits.
std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

std::uint64_t key_of(std::uint64_t seed, std::string_view name) noexcept {
  std::uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return mix(mix(seed + kGolden) ^ hash);
}

// Natural logarithm of 0 < x < 1: the libm's differs between machines in the last bit.
double natural_log(double x) noexcept {
  constexpr double kLog2 = 0.693147180559945309417;
  int halvings = 0;
  while (x < 0.70710678118654752) {
    x *= 2;
    ++halvings;
  }
  const double t = (x - 1) / (x + 1);  // log(x) = 2 atanh(t), |t| <= 0.172
  const double t2 = t * t;
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * t2 + 1.0 / k;
  return 2 * t * sum - halvings * kLog2;
}

template <std::size_t N>
double polynomial(const double (&c)[N], double x) noexcept {
  double sum = c[0];
  for (std::size_t i = 1; i < N; ++i) sum = sum * x + c[i];
  return sum;
}

// Four values from each 64-bit draw, 16 bits a value.
template <class Word>
void fill_words(const std::vector<Word>& table, std::uint64_t key, std::uint64_t first, std::span<std::byte> out) {
  const Word* const quantile = table.data();
  std::byte* to = out.data();
  const std::size_t count = out.size() / sizeof(Word);
  std::uint64_t counter = key + (first / 4) * kGolden;
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4, counter += kGolden) {
    const std::uint64_t draw = mix(counter);
    const Word words[4] = {quantile[draw & 0xFFFF], quantile[(draw >> 16) & 0xFFFF], quantile[(draw >> 32) & 0xFFFF],
                           quantile[draw >> 48]};
    std::memcpy(to + i * sizeof(Word), words, sizeof words);
  }
  for (std::uint64_t draw = mix(counter); i < count; ++i, draw >>= 16) {
    std::memcpy(to + i * sizeof(Word), &quantile[draw & 0xFFFF], sizeof(Word));
  }
}

}  // namespace

// P. J. Acklam's rational approximations: one for the middle, one for the tails.
double normal_quantile(double p) noexcept {
  constexpr double kTail = 0.02425;
  constexpr double kA[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                           1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  constexpr double kB[] = {-5.447609879822406e+01, 1.615858368580409e+02,  -1.556989798598866e+02,
                           6.680131188771972e+01,  -1.328068155288572e+01, 1};
  constexpr double kC[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                           -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  constexpr double kD[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661439416e+00,
                           1};
  if (p < kTail) {
    const double q = std::sqrt(-2 * natural_log(p));
    return polynomial(kC, q) / polynomial(kD, q);
  }
  if (p > 1 - kTail) return -normal_quantile(1 - p);
  const double q = p - 0.5;
  const double r = q * q;
  return polynomial(kA, r) * q / polynomial(kB, r);
}

GaussianSource::GaussianSource(std::uint64_t seed, DType dtype, float mean, float deviation)
    : seed_(seed), dtype_(dtype) {
  HALFQUAD_REQUIRE(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16, kInternal,
                   "Gaussian numbers are made as F32, F16 or BF16 only");
  std::vector<float> values(kQuantiles);
  for (std::size_t i = 0; i < kQuantiles; ++i) {
    const double z = normal_quantile((static_cast<double>(i) + 0.5) / static_cast<double>(kQuantiles));
    values[i] = static_cast<float>(static_cast<double>(mean) + static_cast<double>(deviation) * z);
  }
  const auto count = static_cast<std::int64_t>(kQuantiles);
  if (dtype == DType::kF32) {
    wide_.resize(kQuantiles);
    encode_from_f32(values.data(), dtype, count, reinterpret_cast<std::byte*>(wide_.data()));
  } else {
    narrow_.resize(kQuantiles);
    encode_from_f32(values.data(), dtype, count, reinterpret_cast<std::byte*>(narrow_.data()));
  }
}

void GaussianSource::fill(std::string_view name, std::uint64_t first, std::span<std::byte> out) const {
  HALFQUAD_REQUIRE(first % 4 == 0 && out.size() % static_cast<std::size_t>(bytes_of(dtype_)) == 0, kInternal,
                   "a Gaussian stream is filled from a multiple of four elements, in whole elements");
  const std::uint64_t key = key_of(seed_, name);
  if (dtype_ == DType::kF32) {
    fill_words(wide_, key, first, out);
  } else {
    fill_words(narrow_, key, first, out);
  }
}

}  // namespace halfquad
