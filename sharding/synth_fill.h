#pragma once

#include <cstdint>
#include <span>

#include "io/safetensors_header.h"
#include "sharding/gaussian.h"

namespace halfquad {

/// Makes the data of a synthetic model's tensors: seeded, roughly Gaussian weights, also once decoded from the FP8 and
/// MXFP4 codes of models that are published so. Any part of any tensor can be made by anyone; thread-safe.
class SynthFiller {
 public:
  /// `dtype`: of the tensors that hold no codes.
  SynthFiller(std::uint64_t seed, DType dtype);

  /// Bytes [offset, offset + out.size()) of a tensor that synth_tensors() lists.
  /// @pre offset is a multiple of 16, `out` aligned for the dtype and a whole number of elements.
  void fill(const TensorEntry& tensor, std::uint64_t offset, std::span<std::byte> out) const;

 private:
  GaussianSource weights_;
  GaussianSource norms_;
  GaussianSource codes_;   ///< Of deviation 1, in F32.
  GaussianSource scales_;  ///< Of FP8 blocks, in F32.
};

}  // namespace halfquad
