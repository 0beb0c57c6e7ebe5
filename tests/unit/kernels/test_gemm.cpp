#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/blas_feature.h"
#include "kernels/gemm.h"
#include "tests/support/expect_error.h"
#include "tests/unit/kernels/gemm_checks.h"

namespace halfquad {
namespace {

/// Every backend of the host: 0 plain loops, 1 the BLAS of this build.
class GemmTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (GetParam() == 0) {
      gemm_ = make_plain_gemm();
      return;
    }
    const Feature blas = blas_feature();
    if (!blas.available) GTEST_SKIP() << "no BLAS: " << blas.detail;
    gemm_ = make_blas_gemm();
  }

  std::unique_ptr<Gemm> gemm_;
};

TEST_P(GemmTest, MultipliesAsByHand) { test::expect_product_by_hand(*gemm_); }

TEST_P(GemmTest, AgreesWithSumsInDouble) { test::expect_right_products(*gemm_); }

TEST_P(GemmTest, TakesEmptyMatrices) { test::expect_empty_products(*gemm_); }

TEST_P(GemmTest, RefusesRowsThatOverlap) { test::expect_overlap_refused(*gemm_); }

int threads_of_this_process() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("Threads:", 0) == 0) return std::stoi(line.substr(8));
  }
  return -1;
}

TEST_P(GemmTest, RunsInTheCallingThreadAlone) {
  const GemmProblem sizes = {.m = 300, .n = 300, .k = 300, .a_stride = 300, .b_stride = 300, .c_stride = 300};
  std::thread([] {}).join();  // with the first one, ThreadSanitizer starts one of its own
  const int before = threads_of_this_process();

  std::vector<std::thread> workers;
  for (int i = 0; i < 3; ++i) {
    workers.emplace_back([&] {
      const auto own = GetParam() == 0 ? make_plain_gemm() : make_blas_gemm();
      test::expect_right_product(*own, sizes);
    });
  }
  for (std::thread& worker : workers) worker.join();
  test::expect_right_product(*gemm_, sizes);

  EXPECT_EQ(threads_of_this_process(), before);
#ifndef __SANITIZE_THREAD__
  EXPECT_EQ(before, 1);
#endif
}

TEST_P(GemmTest, HasAName) { EXPECT_FALSE(gemm_->name().empty()); }

INSTANTIATE_TEST_SUITE_P(Host, GemmTest, ::testing::Values(0, 1),
                         [](const auto& backend) { return backend.param == 0 ? "Plain" : "Blas"; });

/// Spoils C and fails at its second product.
class FailingGemm final : public Gemm {
 public:
  explicit FailingGemm(ErrorCode code) : code_(code) {}
  [[nodiscard]] std::string name() const override { return "failing"; }
  void multiply(const GemmProblem& problem) override {
    if (++calls_ == 2) {
      *problem.c = -1e6F;
      throw Error(code_, "the device is lost");
    }
    make_plain_gemm()->multiply(problem);
  }

 private:
  ErrorCode code_;
  int calls_ = 0;
};

TEST(FallbackGemm, ContinuesWithTheSecondOne) {
  for (const ErrorCode code : {ErrorCode::kDevice, ErrorCode::kOutOfMemory}) {
    std::vector<std::string> failures;
    const auto gemm = make_fallback_gemm(std::make_unique<FailingGemm>(code), make_plain_gemm(),
                                         [&](const Error& error) { failures.emplace_back(error.what()); });
    EXPECT_EQ(gemm->name(), "failing");

    test::expect_product_by_hand(*gemm);  // the second of its two products is added to the first
    test::expect_right_products(*gemm);

    EXPECT_EQ(failures, std::vector<std::string>{"the device is lost"});
    EXPECT_EQ(gemm->name(), "plain loops");
  }
}

TEST(FallbackGemm, PassesOtherErrorsOn) {
  const auto gemm = make_fallback_gemm(std::make_unique<FailingGemm>(ErrorCode::kInternal), make_plain_gemm(),
                                       [](const Error&) { ADD_FAILURE(); });

  test::expect_error(ErrorCode::kInternal, {"lost"}, [&] { test::expect_product_by_hand(*gemm); });
}

TEST(BlasGemm, LeavesTheEnvironmentAlone) {
  const char* before = std::getenv("OPENBLAS_NUM_THREADS");
  const std::string kept = before == nullptr ? "" : before;

  static_cast<void>(blas_feature());

  const char* after = std::getenv("OPENBLAS_NUM_THREADS");
  EXPECT_EQ(after == nullptr, before == nullptr);
  EXPECT_EQ(after == nullptr ? "" : std::string(after), kept);
}

TEST(BlasGemm, TellsWhyThereIsNone) {
  const Feature blas = blas_feature();
  if (blas.available) {
    EXPECT_EQ(make_blas_gemm()->name(), blas.detail);
    return;
  }
  EXPECT_FALSE(blas.detail.empty());
  test::expect_error(ErrorCode::kUsage, {"BLAS"}, [] { static_cast<void>(make_blas_gemm()); });
}

}  // namespace
}  // namespace halfquad
