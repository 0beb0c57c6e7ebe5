#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "kernels/level_grid.h"
#include "kernels/quant_spec.h"
#include "runtime/buffer_pool.h"
#include "sharding/row_packer.h"
#include "sharding/tiles.h"

namespace halfquad {

/// One quantized layer read back from an output: everything from the tensors and settings stored beside it.
struct StoredLayer {
  static constexpr std::size_t kNoTensor = static_cast<std::size_t>(-1);

  std::string module;
  QuantSpec spec;  ///< As far as the output says: steps and solver are not stored.
  std::int64_t rows = 0, cols = 0;
  DType stored = DType::kF16;  ///< Of the scales.
  TileGeometry tiles;
  /// Indices into Checkpoint::tensors() of the output. kNoTensor where the format has none.
  std::size_t codes = 0, scale = kNoTensor, zero = kNoTensor;
  const RowPacker* packer = nullptr;      ///< Null: hqq's own layout.
  std::vector<std::size_t> tensors = {};  ///< All that belong to it.
  float tensor_scale = 1;                 ///< Where all scales are over one of the tensor's.
  /// One for each of as many equal parts of its rows, experts, where these differ; tensor_scale is 1 then.
  std::vector<float> part_scales = {};
  std::optional<Levels> levels = {};  ///< Where codes are numbers of levels.

  /// What codes stand for, by code; null: for themselves.
  [[nodiscard]] const float* values() const noexcept { return levels ? levels->data() : nullptr; }
  [[nodiscard]] RowShape shape() const { return {spec, rows, cols, stored, tensor_scale}; }
  [[nodiscard]] float tensor_scale_of(std::int64_t row) const;
  /// Of a format that keeps whole rows: unpacks those from `first_row` on. @pre as RowPacker::unpack().
  void unpack(std::int64_t first_row, const RowPlaces<const std::byte>& in, const LoadedRows& out) const;
};

/// Reads tensors of a few bytes; every file is opened once.
class SmallTensorReader {
 public:
  /// Longer than any scalar, shape or text that a valid layer stores.
  static constexpr std::uint64_t kMaxBytes = 64;

  SmallTensorReader(FileSystem& fs, const Checkpoint& checkpoint);
  /// @pre tensor.bytes <= kMaxBytes.
  [[nodiscard]] std::string read(const SourceTensor& tensor);

 private:
  FileSystem& fs_;
  const Checkpoint& checkpoint_;
  std::vector<std::unique_ptr<ReadFile>> files_;
  BufferPool pool_{BufferPool::kAlignment * 4};
  Buffer scratch_;
};

}  // namespace halfquad
