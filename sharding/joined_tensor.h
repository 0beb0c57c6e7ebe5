#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "io/checkpoint.h"
#include "runtime/dtype.h"
#include "sharding/conversion.h"

namespace halfquad {

/// Some rows of a matrix that another file stores in another order, transposed, or with something added.
struct JoinedPart {
  SourceTensor stored;     ///< Floats, perhaps decoded.
  std::int64_t start = 0;  ///< Element of it at which they begin.
  RowOrder order;          ///< How the matrix became what is stored.
  float add = 0;           ///< What was added to each element.
};

/// A matrix put together again.
struct JoinedTensor {
  std::vector<JoinedPart> parts;
  std::int64_t rows = 0, cols = 0;  ///< A vector has rows of one element.
  DType dtype = DType::kF32;        ///< To which its elements are rounded.

  /// Whether a part holds this row.
  [[nodiscard]] bool holds(std::int64_t row) const noexcept;
  /// As TensorDecoder has it.
  [[nodiscard]] double stored_per_byte() const noexcept;
};

/// Reads it; rows that no part holds are zero. Beside the scratch memory read() takes 12 bytes for each of 256 Ki
/// elements, or of a row, or of a head of a transposed part if these are more.
[[nodiscard]] std::shared_ptr<const TensorDecoder> joined_decoder(JoinedTensor tensor);

}  // namespace halfquad
