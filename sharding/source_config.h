#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "runtime/dtype.h"

namespace halfquad {

/// How config.json says that a checkpoint's weights are stored.
enum class SourceMethod : std::uint8_t {
  kNone,               ///< As they are.
  kFp8,                ///< quant_method "fp8" or "fbgemm_fp8".
  kCompressedTensors,  ///< Packed integers or FP8.
  kMxfp4,
};

/// What compressed-tensors says about the weights of some modules.
struct WeightScheme {
  std::vector<std::string> targets;  ///< Module names, "re:" and a regular expression, or class names such as "Linear".
  int bits = 0;
  bool is_float = false;
  bool symmetric = true;
  std::int64_t group_size = 0;  ///< 0: whole rows.
  std::optional<std::array<std::int64_t, 2>> block;
};

/// What config.json says about the way to read the weights.
struct SourceConfig {
  SourceMethod method = SourceMethod::kNone;
  std::optional<std::array<std::int64_t, 2>> block;  ///< Rows and columns that share an FP8 scale.
  std::vector<WeightScheme> schemes;
  DType plain_dtype = DType::kBF16;  ///< Of the model's weights when they are not quantized.
  std::string model_type;            ///< Of the text model.
  std::optional<std::int64_t> hidden_size;
  std::optional<std::int64_t> expert_width;  ///< Intermediate size of one expert.
  std::optional<std::int64_t> expert_count;

  /// The scheme for a module; targets that name it win over those that name its class. Throws kBadInput when none does.
  [[nodiscard]] const WeightScheme& scheme_of(std::string_view module) const;
};

/// Throws kBadInput for a quantization that cannot be decoded, naming it, and for values of the wrong kind.
[[nodiscard]] SourceConfig parse_source_config(const boost::json::object& config);

}  // namespace halfquad
