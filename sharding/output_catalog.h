#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "io/safetensors_header.h"
#include "kernels/level_grid.h"
#include "sharding/conversion.h"
#include "sharding/format.h"
#include "sharding/rules.h"
#include "sharding/tiles.h"

namespace halfquad {

/// What one tensor of the output file holds.
struct OutputTensor {
  enum class Kind : std::uint8_t { kCopy, kConvert, kConstant, kCodes, kScale, kZero, kTensorScale, kLevels };
  Kind kind = Kind::kCopy;
  /// kCopy: index into Checkpoint::tensors(), of the tensor where the bytes begin. They are those of the file, even
  /// where it is decoded for other uses.
  std::size_t source = 0;
  std::vector<std::size_t> sources;  ///< kConvert: one behind the other.
  Conversion conversion;             ///< kConvert: of each of them.
  std::string constant;              ///< kConstant: the bytes.
  BlockLayout blocks;                ///< How its checksum is cut.
  std::size_t file = 0;              ///< Index into OutputLayout::files().
};

/// How the number is kept that all scales of a layer are over.
enum class TensorScaleForm : std::uint8_t {
  kDivisor,  ///< As it is: scales are divided by it.
  kFactor,   ///< Its inverse, which they are multiplied with. What is found for a layer is a power of two.
  kNone,     ///< It is 1.
};

/// One quantized linear layer: its source, its spec, its tiles and its data tensors in the output.
struct QuantizedTensor {
  static constexpr std::size_t kNoEntry = static_cast<std::size_t>(-1);

  std::size_t source = 0;
  std::string module;
  QuantSpec spec;
  std::int64_t rows = 0, cols = 0;
  TileGeometry tiles;
  /// Indices into OutputLayout::entries(). kNoEntry where the format has none.
  std::size_t codes = 0, scale = kNoEntry, zero = kNoEntry, tensor_scale = kNoEntry, levels = kNoEntry;
  TensorScaleForm tensor_scale_form = TensorScaleForm::kDivisor;
  std::uint64_t tensor_scale_at = 0;        ///< Where its own begins in that entry.
  const RowPacker* packer = nullptr;        ///< Null: hqq's own layout.
  RowOrder order = {};                      ///< Of its rows in the output.
  bool unmeasured = false;                  ///< Decision::unmeasured
  bool given = false;                       ///< Its source holds coded elements (coded_elements.h).
  float given_tensor_scale = 1;             ///< Where it is given and has one.
  std::optional<Levels> given_levels = {};  ///< Where it is given and has some of its own.
  /// The layers, itself among them, that engines merge and that so have one tensor scale: indices into
  /// OutputLayout::quantized(). Empty where it is alone.
  std::vector<std::size_t> scale_with = {};

  /// Whether hqq's early stop can come up.
  [[nodiscard]] bool optimizes() const noexcept { return spec.optimizes() && !given; }
  /// Whether codes are taken on the grids as they are stored, once these are found: everywhere but in hqq's own layout
  /// with the published solver, and where codes come with their grids.
  [[nodiscard]] bool encodes_stored() const noexcept {
    return !given && (packer != nullptr || (spec.solver == SolverKind::kAls && spec.channel_wise));
  }
  /// Whether something has to be known of all its columns before any group is solved.
  [[nodiscard]] bool weighs_columns() const noexcept {
    return spec.weighted() && !given && (spec.importance == Importance::kWeights || unmeasured);
  }
  /// Whether its columns count as a file says.
  [[nodiscard]] bool takes_importance() const noexcept {
    return spec.weighted() && !given && spec.importance == Importance::kFile && !unmeasured;
  }
  /// Whether a tensor scale has to be found for it.
  [[nodiscard]] bool wants_tensor_scale() const noexcept { return spec.has_tensor_scale() && !given; }
  /// Whether levels have to be found for it.
  [[nodiscard]] bool wants_levels() const noexcept { return spec.learns_levels() && !given; }
  /// Whether nothing can be solved before all of it was seen.
  [[nodiscard]] bool wants_whole() const noexcept {
    return weighs_columns() || wants_tensor_scale() || wants_levels() || !spec.channel_wise;
  }
};

/// The tensors of an output before their place in the files is known.
class OutputCatalog {
 public:
  /// Tensors of one module stay in one file. Modules are numbered in the order they are begun.
  void begin_module(std::string_view name);

  void add_copy(TensorShape tensor, std::size_t source, std::uint64_t bytes);
  /// `sources`, each [conversion.rows, conversion.cols], become one tensor.
  void add_conversion(TensorShape tensor, std::vector<std::size_t> sources, const Conversion& conversion);
  void add_constant(TensorShape tensor, std::string bytes);
  /// A layer that has its tensors for itself.
  void add_layer(const Format& format, std::size_t source, const SourceTensor& tensor, const QuantSpec& spec,
                 DType stored);
  /// A tensor that several layers fill, or one whose rows change places: `layer.codes` is set to it.
  std::size_t add_codes(TensorShape tensor, const BlockLayout& blocks);
  /// F32, of `layers` layers one behind the other: `layer.tensor_scale` is set to it.
  std::size_t add_tensor_scales(std::string name, std::size_t layers);
  void add_layer(QuantizedTensor layer) { quantized_.push_back(std::move(layer)); }

  /// Of all tensors: what OutputLayout::data_bytes() will be.
  [[nodiscard]] std::uint64_t data_bytes() const noexcept;
  [[nodiscard]] std::span<const QuantizedTensor> layers() const noexcept { return quantized_; }

 private:
  friend class OutputLayout;

  std::size_t add(TensorShape tensor, OutputTensor content);
  std::size_t add_part(OutputTensor::Kind kind, const std::optional<TensorShape>& tensor, const BlockLayout& blocks);

  std::vector<TensorEntry> entries_;  // `end` is the size so far
  std::vector<OutputTensor> contents_;
  std::vector<std::size_t> modules_;  // of each entry
  std::map<std::string, std::size_t, std::less<>> module_numbers_;
  std::size_t module_ = 0;  // of what is added next
  std::vector<QuantizedTensor> quantized_;
};

}  // namespace halfquad
