#include "kernels/cuda/cublas_gemm.h"

#include <algorithm>
#include <dlfcn.h>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include "runtime/check.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/device_guard.h"
#include "runtime/cuda/memory.h"
#include "runtime/cuda/stream.h"

// cuBLAS is several hundred MB and only needed here: it is opened when it is first wanted, and the module works
// without.

namespace halfquad::cuda {
namespace {

/// The functions of cuBLAS, once it is open; it stays open until the process ends.
struct Cublas {
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasGetVersion_v2) version = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetMathMode) set_math_mode = nullptr;
  decltype(&cublasSgemm_v2) sgemm = nullptr;
  decltype(&cublasGetStatusString) status_text = nullptr;
  std::string problem;  ///< Why it cannot be used.
};

Cublas open_library() {
  Cublas cublas;
  const std::string file = "libcublas.so." + std::to_string(CUDART_VERSION / 1000);
  void* const library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    cublas.problem = ::dlerror();
    return cublas;
  }
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) cublas.problem = file + " has no " + name;
  };
  find(cublas.create, "cublasCreate_v2");
  find(cublas.destroy, "cublasDestroy_v2");
  find(cublas.version, "cublasGetVersion_v2");
  find(cublas.set_stream, "cublasSetStream_v2");
  find(cublas.set_math_mode, "cublasSetMathMode");
  find(cublas.sgemm, "cublasSgemm_v2");
  find(cublas.status_text, "cublasGetStatusString");
  return cublas;
}

const Cublas& library() {
  static const Cublas cublas = open_library();
  return cublas;
}

/// As check() of the runtime's calls.
void check_cublas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  std::string what = "cuda";
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) what.append(":").append(std::to_string(device));
  const bool memory = status == CUBLAS_STATUS_ALLOC_FAILED;
  throw Error(memory ? ErrorCode::kOutOfMemory : ErrorCode::kDevice,
              what + " " + call + ": " + library().status_text(status));
}

int to_int(std::int64_t size) {
  HALFQUAD_REQUIRE(size <= std::numeric_limits<int>::max(), kInternal,
                   "cuBLAS cannot multiply matrices of " + std::to_string(size) + " rows or columns");
  return static_cast<int>(size);
}

/// A matrix on the device, without gaps between its rows. Its memory grows, never shrinks.
class DeviceMatrix {
 public:
  /// @pre the device is current and has no work that uses the matrix.
  float* reserve(std::int64_t rows, std::int64_t cols) {
    cols_ = cols;
    rows_ = rows;
    const std::uint64_t bytes = static_cast<std::uint64_t>(rows * cols) * sizeof(float);
    if (!memory_ || memory_->bytes() < bytes) {
      memory_.reset();  // before the larger one is asked for
      memory_.emplace(bytes);
    }
    return data();
  }
  [[nodiscard]] float* data() const noexcept { return reinterpret_cast<float*>(memory_->data()); }

  void copy_from(const float* host, std::int64_t stride, cudaStream_t stream) const {
    HALFQUAD_CHECK_CUDA(cudaMemcpy2DAsync(data(), row_bytes(cols_), host, row_bytes(stride), row_bytes(cols_),
                                          static_cast<std::size_t>(rows_), cudaMemcpyHostToDevice, stream));
  }
  void copy_to(float* host, std::int64_t stride, cudaStream_t stream) const {
    HALFQUAD_CHECK_CUDA(cudaMemcpy2DAsync(host, row_bytes(stride), data(), row_bytes(cols_), row_bytes(cols_),
                                          static_cast<std::size_t>(rows_), cudaMemcpyDeviceToHost, stream));
  }

 private:
  static std::size_t row_bytes(std::int64_t elements) { return static_cast<std::size_t>(elements) * sizeof(float); }

  std::optional<DeviceBuffer> memory_;
  std::int64_t rows_ = 0, cols_ = 0;
};

class CublasGemm final : public Gemm {
 public:
  explicit CublasGemm(int device) : device_(device) {
    const DeviceGuard guard(device_);
    stream_.emplace();
    check_cublas(library().create(&handle_), "cublasCreate");
    try {
      check_cublas(library().set_stream(handle_, stream_->get()), "cublasSetStream");
      // Products of fp32 as such, whatever shorter types the device would be faster with.
      check_cublas(library().set_math_mode(handle_, CUBLAS_PEDANTIC_MATH), "cublasSetMathMode");
    } catch (...) {
      (void)library().destroy(handle_);
      throw;
    }
  }

  ~CublasGemm() override {
    try {
      const DeviceGuard guard(device_);
      stream_->drain();
      (void)library().destroy(handle_);
    } catch (const Error&) {
      return;  // the device is lost, and all that was on it
    }
  }

  CublasGemm(const CublasGemm&) = delete;
  CublasGemm& operator=(const CublasGemm&) = delete;

  [[nodiscard]] std::string name() const override {
    int version = 0;
    if (library().version(handle_, &version) != CUBLAS_STATUS_SUCCESS) version = 0;
    return "cuBLAS " + std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) +
           " on cuda:" + std::to_string(device_);
  }

  void multiply(const GemmProblem& p) override {
    check_gemm_problem(p);
    if (p.m == 0 || p.n == 0) return;
    const bool add = p.sum == GemmSum::kAdd;
    if (p.k == 0) {
      for (std::int64_t i = 0; i < p.m && !add; ++i) std::fill_n(p.c + i * p.c_stride, p.n, 0.0F);
      return;
    }
    const DeviceGuard guard(device_);
    try {
      run(p, add ? 1.0F : 0.0F);
      stream_->synchronize();
    } catch (...) {
      stream_->drain();  // nothing may read or write the caller's memory any more
      throw;
    }
  }

 private:
  void run(const GemmProblem& p, float beta) {
    a_.reserve(p.m, p.k);
    b_.reserve(p.n, p.k);
    c_.reserve(p.m, p.n);
    a_.copy_from(p.a, p.a_stride, stream_->get());
    b_.copy_from(p.b, p.b_stride, stream_->get());
    if (beta != 0) c_.copy_from(p.c, p.c_stride, stream_->get());
    // cuBLAS sees each matrix transposed, as columns one after the other: Cᵀ = B·Aᵀ.
    const float alpha = 1;
    const int m = to_int(p.m), n = to_int(p.n), k = to_int(p.k);
    check_cublas(library().sgemm(handle_, CUBLAS_OP_T, CUBLAS_OP_N, n, m, k, &alpha, b_.data(), k, a_.data(), k, &beta,
                                 c_.data(), n),
                 "cublasSgemm");
    c_.copy_to(p.c, p.c_stride, stream_->get());
  }

  const int device_;
  std::optional<Stream> stream_;
  cublasHandle_t handle_ = nullptr;
  DeviceMatrix a_, b_, c_;
};

}  // namespace

std::unique_ptr<Gemm> make_cublas_gemm(int device) {
  HALFQUAD_REQUIRE(library().problem.empty(), kUsage, "cuBLAS cannot be used: " + library().problem);
  return std::make_unique<CublasGemm>(device);
}

}  // namespace halfquad::cuda
