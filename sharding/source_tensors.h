#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "io/checkpoint.h"
#include "runtime/dtype.h"

namespace halfquad {

/// How the elements of a source tensor are stored.
enum class SourceEncoding : std::uint8_t {
  kPlain,      ///< As elements of its dtype.
  kBytes,      ///< F8_E4M3, F8_E5M2 or I8 codes with a grid of scales.
  kMxfp4,      ///< Blocks of 32 codes of 4 bits and a scale byte for each.
  kPackedInt,  ///< compressed-tensors' packed integers with scales and perhaps zero points in groups along rows.
};

/// A tensor of the model as a plain checkpoint would hold it, and where its elements lie in the checkpoint at hand: a
/// whole tensor of a file, one expert's rows or columns of a fused one, or codes and scales to be put together.
struct LogicalTensor {
  /// Name and shape of the plain tensor, and the dtype decode_rows() yields (F32 unless kPlain). File, offset and bytes
  /// are those of the stored tensor, of which this one may be a part.
  SourceTensor header;
  /// What a plain checkpoint would hold it in: header.dtype when kPlain, else what the config says.
  DType plain_dtype = DType::kF32;
  SourceEncoding encoding = SourceEncoding::kPlain;
  DType stored_dtype = DType::kF32;
  // Indices into Checkpoint::tensors().
  std::size_t data = 0;
  std::optional<std::size_t> scale;  ///< Whenever it is not plain.
  std::optional<std::size_t> zero;   ///< Zero points, for kPackedInt that has them.
  DType scale_dtype = DType::kF32;

  // Where a matrix lies in the stored tensor, in bytes from its start: row r at begin + r * row_stride.
  std::uint64_t begin = 0;
  std::uint64_t row_bytes = 0;
  std::uint64_t row_stride = 0;
  std::uint64_t col_stride =
      0;  ///< Not 0: transposed, elements of a row are this far apart; row_bytes is one element's.
  /// Where the first row's scales lie in theirs. kMxfp4: they follow each other as the rows do.
  std::uint64_t scale_begin = 0;
  std::uint64_t scale_col_stride = 0;  ///< Not 0: the grid is transposed, scales of a line are this far apart.
  std::int64_t block_rows = 1;         ///< Rows and columns that share a scale.
  std::int64_t block_cols = 1;
  int bits = 0;  ///< kPackedInt.

  /// Whether it is a stored tensor from its first byte to its last.
  [[nodiscard]] bool is_verbatim() const noexcept;
};

/// The model's tensors in the order in which the checkpoint stores them: by (file, offset) of their codes, experts of
/// one fused tensor in ascending order, gate before up. Tensors that only serve to decode others (scales, zero points,
/// shapes, scales of activations) are none of them. From headers and config.json alone; nothing of the data is read.
///
/// Becomes separate matrices "<prefix>.<expert>.{gate,up,down}_proj.weight": fused experts "<prefix>.gate_up_proj" and
/// "<prefix>.down_proj" of three dimensions, in whichever orientation the sizes in config.json show; FP8 with scales
/// and MXFP4 blocks too. Throws kBadInput, naming the tensor or the setting: a quantization that cannot be decoded,
/// codes without scales or scales without codes, shapes that contradict each other or config.json, an orientation that
/// cannot be told.
[[nodiscard]] std::vector<LogicalTensor> logical_tensors(const Checkpoint& checkpoint);

}  // namespace halfquad
