#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "io/file_system.h"
#include "sharding/quantized_model.h"

namespace halfquad {

/// Samples [first, first + count) of a layer's inputs.
struct ActivationRange {
  const StoredLayer* layer = nullptr;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Inputs of layers: for each a matrix of samples by inputs, read or made piece by piece. Thread-safe.
class Activations {
 public:
  virtual ~Activations() = default;

  /// Ranges begin at multiples of this.
  static constexpr std::int64_t kRangeStep = 4;

  /// Samples there are for `layer`; 0 when it has none.
  [[nodiscard]] virtual std::int64_t samples(const StoredLayer& layer) const = 0;

  /// Writes [range.count, layer.cols] to `out`. `scratch` has OpenCheckpoint::kScratchBytes, page-aligned.
  /// Throws kIo for what cannot be read, kBadInput for a NaN or an infinity.
  virtual void load(const ActivationRange& range, std::span<std::byte> scratch, float* out) const = 0;
};

/// `samples` standard normal numbers for every input of every layer. They depend on the seed, the layer's name and the
/// position alone.
[[nodiscard]] std::unique_ptr<Activations> make_random_activations(std::int64_t samples, std::uint64_t seed);

/// A safetensors file of tensors that are named like the layers, F32, F16 or BF16 of shape [samples, inputs]. What it
/// holds beside is not looked at; layers that it does not name have no samples.
/// Throws kBadInput naming file, tensor, what it is and what it should be; also when no layer is named.
[[nodiscard]] std::unique_ptr<Activations> open_activations(FileSystem& fs, const std::filesystem::path& file,
                                                            ReadMode mode, std::span<const StoredLayer> layers);

}  // namespace halfquad
