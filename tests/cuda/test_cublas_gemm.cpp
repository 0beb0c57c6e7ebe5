#include <cstdlib>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/device_loader.h"
#include "runtime/error.h"
#include "tests/cuda/module_under_test.h"
#include "tests/unit/kernels/gemm_checks.h"

namespace halfquad {
namespace {

DeviceModule& module() {
  static const LoadedDevices loaded = load_device_module(test::module_under_test());
  if (loaded.module == nullptr) throw std::runtime_error(loaded.detail);
  return *loaded.module;
}

/// Why this machine has no cuBLAS; empty when it has.
std::string missing_library() {
  try {
    static_cast<void>(module().make_gemm(0));
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kUsage) return error.what();
  }
  return "";
}

TEST(CublasGemm, MultipliesOnEveryDevice) {
  if (const std::string missing = missing_library(); !missing.empty()) GTEST_SKIP() << missing;
  const std::vector<DeviceInfo> devices = module().devices();
  ASSERT_FALSE(devices.empty());
  for (const DeviceInfo& device : devices) {
    const auto gemm = module().make_gemm(device.index);
    EXPECT_EQ(gemm->name().rfind("cuBLAS ", 0), 0U) << gemm->name();
    test::expect_product_by_hand(*gemm);
    test::expect_right_products(*gemm);
    test::expect_empty_products(*gemm);
    test::expect_overlap_refused(*gemm);
  }
}

TEST(CublasGemm, ReturnsWhenResultsAreInPageLockedMemory) {
  if (const std::string missing = missing_library(); !missing.empty()) GTEST_SKIP() << missing;
  constexpr std::int64_t kSize = 64;
  std::vector<float> a(kSize * kSize, 2), b(kSize * kSize, 3), c(kSize * kSize, -1);
  for (std::vector<float>* matrix : {&a, &b, &c}) {
    ASSERT_TRUE(module().lock_pages(0, std::as_writable_bytes(std::span(*matrix))));
  }
  const auto gemm = module().make_gemm(0);

  gemm->multiply({.m = kSize,
                  .n = kSize,
                  .k = kSize,
                  .a = a.data(),
                  .a_stride = kSize,
                  .b = b.data(),
                  .b_stride = kSize,
                  .c = c.data(),
                  .c_stride = kSize});

  EXPECT_EQ(c, std::vector<float>(kSize * kSize, 6 * kSize));
  for (std::vector<float>* matrix : {&a, &b, &c}) {
    module().unlock_pages(0, std::as_writable_bytes(std::span(*matrix)));
  }
}

TEST(CublasGemm, RefusesADeviceThatIsNotThere) { EXPECT_THROW(static_cast<void>(module().make_gemm(1000)), Error); }

/// What the next test runs with failures.
TEST(CublasGemm, IsRightOrSaysWhatFailed) {
  try {
    const auto gemm = module().make_gemm(0);
    test::expect_product_by_hand(*gemm);
    test::expect_right_product(*gemm, {.m = 9, .n = 8, .k = 70, .a_stride = 70, .b_stride = 71, .c_stride = 8});
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_TRUE(error.code() == ErrorCode::kDevice || error.code() == ErrorCode::kOutOfMemory) << message;
    EXPECT_EQ(message.rfind("cuda", 0), 0U) << message;
  }
}

TEST(CublasGemm, IsNeverWrongWhateverCallFails) {
  if (const std::string missing = missing_library(); !missing.empty()) GTEST_SKIP() << missing;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const auto run_with = [&](const std::string& rule) {
    ASSERT_EQ(::setenv("CUDAEMU_FAIL", rule.c_str(), 1), 0);
    const std::string command = "'" + self + "' --gtest_filter=CublasGemm.IsRightOrSaysWhatFailed > /dev/null 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << rule;
  };
  for (int call = 1; call <= 40; ++call) run_with("device0:lost@" + std::to_string(call));
  for (int call = 1; call <= 6; ++call) {
    run_with("cudaMalloc:" + std::to_string(call) + ":cudaErrorMemoryAllocation");
    run_with("cudaMemcpy2DAsync:" + std::to_string(call) + ":cudaErrorUnknown");
  }
  ::unsetenv("CUDAEMU_FAIL");
}

}  // namespace
}  // namespace halfquad
