#include "kernels/simd/scratch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "runtime/checked.h"

namespace halfquad::simd {
namespace {
constexpr std::size_t kAlignment = 128;
}

void Scratch::AlignedFree::operator()(void* p) const noexcept { std::free(p); }

Scratch::Block Scratch::allocate(std::size_t bytes) {
  const std::size_t rounded = round_up(bytes, kAlignment);
  Block block(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
  if (!block) throw std::bad_alloc();
  std::memset(block.get(), 0, rounded);  // the padding up to whole vectors is read, its results are never used
  return block;
}

void Scratch::reserve(std::size_t elems, std::size_t slots) {
  if (elems > elems_) {
    stride = round_up(elems, lanes_);
    const std::size_t floats = stride * lanes_;
    const std::size_t paired = std::min(stride, kMostPairedElems) * lanes_;
    weights_ = allocate((4 * floats + 3 * paired) * sizeof(float));
    rows = reinterpret_cast<float*>(weights_.get());
    float* const first = rows + floats;
    weights[0] = {first, first + floats, first + 2 * floats};
    float* const second = first + 3 * floats;
    weights[1] = {second, second + paired, second + 2 * paired};
    elems_ = elems;
  }
  if (slots > slots_) {
    sums_ = allocate(slots * (lanes_ * sizeof(double) + 2 * sizeof(float)));
    sums = reinterpret_cast<double*>(sums_.get());
    low = reinterpret_cast<float*>(sums + slots * lanes_);
    high = low + slots;
    slots_ = slots;
  }
}

}  // namespace halfquad::simd
