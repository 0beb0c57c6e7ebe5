#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "kernels/quant_spec.h"
#include "sharding/tiles.h"

namespace halfquad {

/// One quantized layer read back from an output in hqq's layout: everything from the keys stored beside it.
struct StoredLayer {
  std::string module;
  QuantSpec spec;  ///< width, group_size, axis, channel_wise and round_zero as stored; solver as `optimize` says.
  std::int64_t rows = 0, cols = 0;
  DType stored = DType::kF16;  ///< Of scale and zero.
  TileGeometry tiles;
  std::size_t codes = 0, scale = 0, zero = 0;  ///< Indices into Checkpoint::tensors() of the output.
};

/// A finished output (hqq's safetensors layout; one file or shards), opened and checked.
class HqqOutput {
 public:
  /// Throws kBadInput naming layer and key when a layer lacks one of the keys loaders need, or one has the wrong dtype,
  /// shape or value (loaders fail open on most of these), or when there is no quantized layer at all.
  HqqOutput(FileSystem& fs, const std::filesystem::path& path);

  [[nodiscard]] const Checkpoint& checkpoint() const noexcept { return checkpoint_; }
  [[nodiscard]] std::span<const StoredLayer> layers() const noexcept { return layers_; }
  /// Tensors that belong to no quantized layer (biases included): indices into checkpoint().tensors().
  [[nodiscard]] std::span<const std::size_t> plain() const noexcept { return plain_; }

 private:
  Checkpoint checkpoint_;
  std::vector<StoredLayer> layers_;
  std::vector<std::size_t> plain_;
};

}  // namespace halfquad
