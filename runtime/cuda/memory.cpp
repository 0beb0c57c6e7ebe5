#include "runtime/cuda/memory.h"

#include <algorithm>
#include <utility>

#include <cuda_runtime_api.h>

#include "runtime/cuda/check.h"

namespace halfquad::cuda {

DeviceBuffer::DeviceBuffer(std::uint64_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  HALFQUAD_CHECK_CUDA(cudaMalloc(&data, bytes));
  data_ = static_cast<std::byte*>(data);
}

DeviceBuffer::~DeviceBuffer() { (void)cudaFree(data_); }

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PinnedBuffer::~PinnedBuffer() { (void)cudaFreeHost(data_); }

std::byte* PinnedBuffer::reserve(std::uint64_t bytes) {
  if (bytes <= bytes_) return data_;
  const std::uint64_t wanted = std::max(bytes, 2 * bytes_);
  HALFQUAD_CHECK_CUDA(cudaFreeHost(std::exchange(data_, nullptr)));
  bytes_ = 0;
  void* data = nullptr;
  HALFQUAD_CHECK_CUDA(cudaMallocHost(&data, wanted));
  data_ = static_cast<std::byte*>(data);
  bytes_ = wanted;
  return data_;
}

bool lock_pages(std::span<std::byte> memory) noexcept {
  if (cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable) == cudaSuccess) return true;
  (void)cudaGetLastError();  // else the next call would be blamed
  return false;
}

void unlock_pages(std::span<std::byte> memory) noexcept {
  (void)cudaHostUnregister(memory.data());
  (void)cudaGetLastError();
}

}  // namespace halfquad::cuda
