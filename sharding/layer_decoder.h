#pragma once

#include <cstdint>
#include <memory>

#include "io/checkpoint.h"
#include "sharding/conversion.h"
#include "sharding/stored_layer.h"

namespace halfquad {

/// A quantized layer of an output, or some of its rows, as a tensor of a checkpoint with elements of four bytes.
struct LayerView {
  std::int64_t first_row = 0;  ///< Row of the stored layer at which its rows begin.
  RowOrder order;              ///< kSame or kInterleaved: where in the stored layer each row lies.
  /// 0: weights, (q - z)·s in fp32. Else coded elements (coded_elements.h) with a grid for each so many weights of the
  /// layer's grouping. @pre Divides the layer's groups.
  std::int64_t coded_group = 0;
};

/// Reads it out of `stored`, the output that `layer` belongs to. Beside the scratch memory read() takes up to 5 bytes
/// for each of 1 Mi elements, of 4 Mi where the layer lies transposed, or of 32 rows if these are more.
[[nodiscard]] std::shared_ptr<const TensorDecoder> layer_decoder(const Checkpoint& stored, const StoredLayer& layer,
                                                                 const LayerView& view);

}  // namespace halfquad
