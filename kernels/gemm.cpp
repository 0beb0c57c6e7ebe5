#include "kernels/gemm.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr std::int64_t kLanes = 16;

/// a·b over `count` elements, in independent sums that the compiler turns into vectors.
float dot(const float* a, const float* b, std::int64_t count) noexcept {
  std::array<float, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) sums[static_cast<std::size_t>(l)] += a[i + l] * b[i + l];
  }
  float total = 0;
  for (; i < count; ++i) total += a[i] * b[i];
  for (const float sum : sums) total += sum;
  return total;
}

class PlainGemm final : public Gemm {
 public:
  [[nodiscard]] std::string name() const override { return "plain loops"; }

  void multiply(const GemmProblem& p) override {
    check_gemm_problem(p);
    // Columns in blocks whose part of B stays in the caches while the rows of A pass by.
    constexpr std::int64_t kCachedElements = 1 << 16;
    const std::int64_t block = std::max<std::int64_t>(1, kCachedElements / std::max<std::int64_t>(1, p.k));
    for (std::int64_t first = 0; first < p.n; first += block) {
      const std::int64_t last = std::min(p.n, first + block);
      for (std::int64_t i = 0; i < p.m; ++i) {
        for (std::int64_t j = first; j < last; ++j) {
          const float product = dot(p.a + i * p.a_stride, p.b + j * p.b_stride, p.k);
          float& c = p.c[i * p.c_stride + j];
          c = p.sum == GemmSum::kAdd ? c + product : product;
        }
      }
    }
  }
};

class FallbackGemm final : public Gemm {
 public:
  FallbackGemm(std::unique_ptr<Gemm> first, std::unique_ptr<Gemm> second, std::function<void(const Error&)> failed)
      : first_(std::move(first)), second_(std::move(second)), failed_(std::move(failed)) {}

  [[nodiscard]] std::string name() const override { return first_ != nullptr ? first_->name() : second_->name(); }

  void multiply(const GemmProblem& p) override {
    if (first_ != nullptr) {
      if (p.sum == GemmSum::kAdd) keep(p);
      try {
        first_->multiply(p);
        return;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kDevice && error.code() != ErrorCode::kOutOfMemory) throw;
        failed_(error);
      }
      first_.reset();
      if (p.sum == GemmSum::kAdd) restore(p);  // it may have been half done
    }
    second_->multiply(p);
  }

 private:
  void keep(const GemmProblem& p) {
    kept_.resize(static_cast<std::size_t>(p.m * p.n));
    for (std::int64_t i = 0; i < p.m; ++i) std::copy_n(p.c + i * p.c_stride, p.n, kept_.data() + i * p.n);
  }
  void restore(const GemmProblem& p) const {
    for (std::int64_t i = 0; i < p.m; ++i) std::copy_n(kept_.data() + i * p.n, p.n, p.c + i * p.c_stride);
  }

  std::unique_ptr<Gemm> first_, second_;
  std::function<void(const Error&)> failed_;
  std::vector<float> kept_;
};

}  // namespace

void check_gemm_problem(const GemmProblem& p) {
  const bool sizes = p.m >= 0 && p.n >= 0 && p.k >= 0;
  HALFQUAD_REQUIRE(sizes && p.a_stride >= p.k && p.b_stride >= p.k && p.c_stride >= p.n, kInternal,
                   "a product of " + std::to_string(p.m) + " x " + std::to_string(p.n) + " x " + std::to_string(p.k) +
                       " has rows that overlap, or a negative size");
}

std::unique_ptr<Gemm> make_fallback_gemm(std::unique_ptr<Gemm> first, std::unique_ptr<Gemm> second,
                                         std::function<void(const Error&)> failed) {
  return std::make_unique<FallbackGemm>(std::move(first), std::move(second), std::move(failed));
}

std::unique_ptr<Gemm> make_plain_gemm() { return std::make_unique<PlainGemm>(); }

}  // namespace halfquad
