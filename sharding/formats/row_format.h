#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "sharding/format.h"

namespace halfquad {

/// What a format of whole rows takes.
struct RowLimits {
  std::span<const CodeWidth> widths;
  std::span<const std::int64_t> group_sizes;  ///< Empty: any.
  bool whole_rows = false;                    ///< Group size 0 as well.
  bool super_blocks = false;
  std::span<const FloatGrid> grids = {};
};
/// Why `spec` does not fit a format of whole rows: "mlx has no 1-bit codes", "group size 64 does not divide rows of
/// 100 weights".
[[nodiscard]] std::optional<std::string> why_not_rows(std::string_view format, const RowLimits& limits,
                                                      const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

/// "mlx has no nf4 codes; hdf5 does".
[[nodiscard]] std::string why_not_grid(std::string_view format, FloatGrid grid);

/// For formats without fractional zeros.
void want_whole_zeros(QuantSpec& spec) noexcept;

/// The config of the source with a quantization_config.
[[nodiscard]] boost::json::object config_with(const Checkpoint& checkpoint, boost::json::object quantization);
/// The name of the model's dtype in its config, "bfloat16" without one.
[[nodiscard]] std::string model_dtype(const Checkpoint& checkpoint);

/// Bits of a code; 2 for 1.58.
[[nodiscard]] int whole_bits(CodeWidth width) noexcept;

/// The spec of most quantized tensors; of equals the one met first.
[[nodiscard]] QuantSpec most_frequent_spec(std::span<const Decision> decisions);
/// Whether the output head is among what is quantized.
[[nodiscard]] bool quantizes_lm_head(const Checkpoint& checkpoint, std::span<const Decision> decisions);
/// Modules of 2-D weights that stay as they are and are no embedding or norm, in order of name; lm_head too, which a
/// tied one does not show, unless it is quantized.
[[nodiscard]] std::vector<std::string> unquantized_modules(const Checkpoint& checkpoint,
                                                           std::span<const Decision> decisions);

/// quantization_config.quant_method of the config; empty without one.
[[nodiscard]] std::string quantization_method(const Checkpoint& checkpoint);
/// Modules that have a tensor whose name ends so, in the order of the file.
[[nodiscard]] std::vector<std::string_view> modules_with(const Checkpoint& checkpoint, std::string_view suffix);

/// What a reader of layers throws: names the file, the layer and its tensor.
[[noreturn]] void fail_layer(const Checkpoint& checkpoint, std::string_view module, std::string_view key,
                             const std::string& what);

/// A quantization setting of config.json that must be there and in range: `key` inside `object`, which `where` names.
[[nodiscard]] std::int64_t config_integer(const boost::json::object& object, std::string_view key, std::int64_t least,
                                          std::int64_t most, std::string_view where);

/// Looks up and checks the tensors of one layer of an output.
class LayerTensorFinder {
 public:
  LayerTensorFinder(const Checkpoint& checkpoint, std::string_view module) : checkpoint_(checkpoint), module_(module) {}
  /// Index of tensor "module.key" once it is there and has this dtype and shape.
  [[nodiscard]] std::size_t find(std::string_view key, DType dtype, const std::vector<std::int64_t>& shape) const;
  /// The tensor as it is. Throws when it is missing.
  [[nodiscard]] const SourceTensor& get(std::string_view key) const;
  /// Null when it is missing.
  [[nodiscard]] const SourceTensor* look(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, const std::string& what) const {
    fail_layer(checkpoint_, module_, key, what);
  }

 private:
  const Checkpoint& checkpoint_;
  std::string_view module_;
};

/// The stored layer of a format of whole rows whose shape and spec are known: checks that the tensors the format wants
/// are there, with their dtypes and shapes. `stored`: dtype of scales.
[[nodiscard]] StoredLayer stored_row_layer(const Format& format, const Checkpoint& checkpoint, std::string_view module,
                                           const QuantSpec& spec, std::int64_t rows, std::int64_t cols, DType stored);

}  // namespace halfquad
