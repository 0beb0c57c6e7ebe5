#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "sharding/joined_tensor.h"
#include "sharding/layer_decoder.h"
#include "sharding/quantized_model.h"

namespace halfquad {

/// A tensor of the model that an output stands for.
struct PlainTensor {
  /// As a checkpoint over the output's files has it; a quantized layer decoded to F32.
  SourceTensor tensor;
  std::optional<std::size_t> layer;  ///< Index into QuantizedModel::layers().
  LayerView view;                    ///< Of that layer.
  /// Of another tensor whose name is not the output's own: what its elements were made from. Their dtype is that of the
  /// parts' tensors.
  std::optional<JoinedTensor> joined = {};
};

/// The model that an output stands for: what was quantized, dequantized.
struct PlainModel {
  std::vector<PlainTensor> tensors;
  std::optional<boost::json::object> config;  ///< Says nothing of a quantization.
  std::vector<std::string> notes;             ///< What is missing or not as it was, one sentence each.
};

/// With the output's own names, which are the source's in all formats that keep names.
[[nodiscard]] PlainModel plain_model(const QuantizedModel& output);

/// With names, shapes, dtypes and config of `source`, the checkpoint that the output was made from. Of a GGUF output
/// rows change places again, stacked experts come apart, halves of kv_b_proj come together. Throws kBadInput naming a
/// tensor that one of the two has and the other has not, or whose shapes do not belong together.
[[nodiscard]] PlainModel plain_model(const QuantizedModel& output, const Checkpoint& source);

/// Whether text a comes before b, numbers in them being compared as such: "layers.2" before "layers.10".
[[nodiscard]] bool natural_less(std::string_view a, std::string_view b) noexcept;

/// `config` without what says how weights are quantized.
[[nodiscard]] boost::json::object config_of_plain(boost::json::object config);

}  // namespace halfquad
