#include "sharding/activations.h"

#include <algorithm>

#include <fmt/format.h>

#include "io/checkpoint.h"
#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/gaussian.h"
#include "sharding/shape_text.h"
#include "sharding/stored_tile.h"

namespace halfquad {
namespace {

class RandomActivations final : public Activations {
 public:
  RandomActivations(std::int64_t samples, std::uint64_t seed)
      : samples_(samples), normal_(seed, DType::kF32, 0.0F, 1.0F) {}

  [[nodiscard]] std::int64_t samples(const StoredLayer& /*layer*/) const override { return samples_; }

  void load(const ActivationRange& range, std::span<std::byte> /*scratch*/, float* out) const override {
    const std::int64_t cols = range.layer->cols;
    normal_.fill(range.layer->module + ".input", static_cast<std::uint64_t>(range.first * cols),
                 std::as_writable_bytes(std::span(out, static_cast<std::size_t>(range.count * cols))));
  }

 private:
  std::int64_t samples_;
  GaussianSource normal_;
};

class FileActivations final : public Activations {
 public:
  FileActivations(FileSystem& fs, const std::filesystem::path& file, ReadMode mode, std::span<const StoredLayer> layers)
      : name_(file.string()), checkpoint_(fs, file), files_(fs, checkpoint_, mode) {
    std::size_t found = 0;
    for (const StoredLayer& layer : layers) {
      const SourceTensor* tensor = checkpoint_.find(layer.module);
      if (tensor == nullptr) continue;
      ++found;
      const bool right =
          tensor->shape.size() == 2 && tensor->shape[0] > 0 && tensor->shape[1] == layer.cols &&
          (tensor->dtype == DType::kF32 || tensor->dtype == DType::kF16 || tensor->dtype == DType::kBF16);
      HALFQUAD_REQUIRE(right, kBadInput,
                       fmt::format("{}: tensor {} is {} of shape {}; activations of this layer are F32, F16 or BF16 of "
                                   "shape [samples, {}]",
                                   quoted(name_), quoted(tensor->name), name_of(tensor->dtype),
                                   shape_text(tensor->shape), layer.cols));
    }
    HALFQUAD_REQUIRE(
        found > 0, kBadInput,
        fmt::format("{}: none of its {} tensors is named like a quantized layer, such as {}", quoted(name_),
                    checkpoint_.tensors().size(), layers.empty() ? "none" : quoted(layers.front().module)));
  }

  [[nodiscard]] std::int64_t samples(const StoredLayer& layer) const override {
    const SourceTensor* tensor = checkpoint_.find(layer.module);
    return tensor == nullptr ? 0 : tensor->shape[0];
  }

  void load(const ActivationRange& range, std::span<std::byte> scratch, float* out) const override {
    const SourceTensor& tensor = *checkpoint_.find(range.layer->module);
    const std::int64_t element_bytes = bytes_of(tensor.dtype);
    const std::int64_t piece =
        static_cast<std::int64_t>(OpenCheckpoint::kScratchBytes - ReadFile::kSlack) / element_bytes;
    const std::int64_t begin = range.first * range.layer->cols;
    const std::int64_t end = begin + range.count * range.layer->cols;
    for (std::int64_t at = begin; at < end; at += piece) {
      const std::int64_t count = std::min(piece, end - at);
      const auto data = files_.file(tensor.file)
                            .read(tensor.offset + static_cast<std::uint64_t>(at * element_bytes),
                                  static_cast<std::size_t>(count * element_bytes), scratch);
      if (const auto found = find_nonfinite(data.data(), tensor.dtype, count)) {
        throw Error(ErrorCode::kBadInput, fmt::format("{}: tensor {} holds a NaN or an infinity at element {}",
                                                      quoted(name_), quoted(tensor.name), at + *found));
      }
      decode_to_f32(data.data(), tensor.dtype, count, out);
      out += count;
    }
  }

 private:
  std::string name_;
  Checkpoint checkpoint_;
  OpenCheckpoint files_;
};

}  // namespace

std::unique_ptr<Activations> make_random_activations(std::int64_t samples, std::uint64_t seed) {
  return std::make_unique<RandomActivations>(samples, seed);
}

std::unique_ptr<Activations> open_activations(FileSystem& fs, const std::filesystem::path& file, ReadMode mode,
                                              std::span<const StoredLayer> layers) {
  return std::make_unique<FileActivations>(fs, file, mode, layers);
}

}  // namespace halfquad
