#include <algorithm>
#include <array>
#include <cblas.h>
#include <cstdlib>
#include <dlfcn.h>
#include <limits>
#include <string>
#include <string_view>

#include "kernels/blas_feature.h"
#include "kernels/gemm.h"
#include "runtime/check.h"

// The library is opened when it is first needed, not linked: OpenBLAS starts a thread per core as soon as it is loaded,
// which no other command has any use for.

namespace halfquad {
namespace {

/// The functions of the library, once it is open; it stays open until the process ends.
struct Blas {
  decltype(&cblas_sgemm) sgemm = nullptr;
  void (*openblas_set_num_threads)(int) = nullptr;
  std::string name;
  std::string problem;  ///< Why sgemm is null.
};

/// Sets variables while a library is loaded and puts their old values back.
class ScopedEnvironment {
 public:
  explicit ScopedEnvironment(const char* value) {
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      const char* old = std::getenv(kNames[i]);
      was_set_[i] = old != nullptr;
      if (old != nullptr) old_[i] = old;
      ::setenv(kNames[i], value, 1);
    }
  }
  ~ScopedEnvironment() {
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      if (was_set_[i]) {
        ::setenv(kNames[i], old_[i].c_str(), 1);
      } else {
        ::unsetenv(kNames[i]);
      }
    }
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  static constexpr std::array<const char*, 4> kNames = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
                                                        "BLIS_NUM_THREADS"};
  std::array<bool, kNames.size()> was_set_{};
  std::array<std::string, kNames.size()> old_;
};

/// "OpenBLAS 0.3.21, SkylakeX"; the file's name for a library that does not tell.
std::string name_of_library(void* library) {
  auto* const config = reinterpret_cast<char* (*)()>(::dlsym(library, "openblas_get_config"));
  auto* const core = reinterpret_cast<char* (*)()>(::dlsym(library, "openblas_get_corename"));
  if (config == nullptr || core == nullptr) {
    const std::string_view file = HALFQUAD_BLAS_FILE;
    return std::string(file.substr(file.rfind('/') + 1));
  }
  const std::string text = config();  // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..."
  const std::size_t version = text.find(' ');
  return text.substr(0, text.find(' ', version + 1)) + ", " + core();
}

Blas open_library() {
  Blas blas;
  // Every worker multiplies for itself. One thread from the start, so that none is made that would only wait.
  const ScopedEnvironment one_thread("1");
  const std::string path = HALFQUAD_BLAS_FILE;
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  // Where the program was moved to, the library may lie elsewhere on the loader's path.
  if (library == nullptr) library = ::dlopen(path.c_str() + path.rfind('/') + 1, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    blas.problem = ::dlerror();
    return blas;
  }
  blas.sgemm = reinterpret_cast<decltype(blas.sgemm)>(::dlsym(library, "cblas_sgemm"));
  if (blas.sgemm == nullptr) blas.problem = path + " has no cblas_sgemm";
  blas.openblas_set_num_threads =
      reinterpret_cast<decltype(blas.openblas_set_num_threads)>(::dlsym(library, "openblas_set_num_threads"));
  blas.name = name_of_library(library);
  return blas;
}

const Blas& library() {
  static const Blas blas = open_library();
  return blas;
}

int to_int(std::int64_t size) {
  HALFQUAD_REQUIRE(size <= std::numeric_limits<int>::max(), kInternal,
                   "a BLAS cannot multiply matrices of " + std::to_string(size) + " rows or columns");
  return static_cast<int>(size);
}

class BlasGemm final : public Gemm {
 public:
  [[nodiscard]] std::string name() const override { return library().name; }

  void multiply(const GemmProblem& p) override {
    check_gemm_problem(p);
    if (p.m == 0 || p.n == 0) return;
    limit_threads();
    const float beta = p.sum == GemmSum::kAdd ? 1.0F : 0.0F;
    // A BLAS wants strides of at least 1, even where there is no element.
    const auto stride = [](std::int64_t elements) { return to_int(std::max<std::int64_t>(1, elements)); };
    library().sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, to_int(p.m), to_int(p.n), to_int(p.k), 1.0F, p.a,
                    stride(p.a_stride), p.b, stride(p.b_stride), beta, p.c, stride(p.c_stride));
  }

 private:
  /// An OpenBLAS on OpenMP counts per calling thread, and one loaded by somebody else did not see our environment.
  static void limit_threads() {
    thread_local bool limited = false;
    if (!limited && library().openblas_set_num_threads != nullptr) library().openblas_set_num_threads(1);
    limited = true;
  }
};

}  // namespace

Feature blas_feature() {
  const Blas& blas = library();
  const bool available = blas.sgemm != nullptr;
  return {.name = "BLAS", .available = available, .detail = available ? blas.name : blas.problem};
}

std::unique_ptr<Gemm> make_blas_gemm() {
  HALFQUAD_REQUIRE(library().sgemm != nullptr, kUsage, "no BLAS can be used: " + library().problem);
  return std::make_unique<BlasGemm>();
}

}  // namespace halfquad
