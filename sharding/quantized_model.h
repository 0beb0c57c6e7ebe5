#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "sharding/format.h"
#include "sharding/stored_layer.h"

namespace halfquad {

/// A finished output in any format, opened and checked.
class QuantizedModel {
 public:
  /// Throws kBadInput when there is no quantized layer in any known format, and what Format::layers() does.
  QuantizedModel(FileSystem& fs, const std::filesystem::path& path);

  [[nodiscard]] const Format& format() const noexcept { return *format_; }
  [[nodiscard]] const Checkpoint& checkpoint() const noexcept { return checkpoint_; }
  [[nodiscard]] std::span<const StoredLayer> layers() const noexcept { return layers_; }
  /// Tensors that belong to no quantized layer (biases included): indices into checkpoint().tensors().
  [[nodiscard]] std::span<const std::size_t> plain() const noexcept { return plain_; }

  struct Opened {
    const Format* format = nullptr;
    OpenedModel model;
  };
  explicit QuantizedModel(Opened opened);

 private:
  Checkpoint checkpoint_;
  const Format* format_;
  std::vector<StoredLayer> layers_;
  std::vector<std::size_t> plain_;
};

}  // namespace halfquad
