#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "io/file_image.h"
#include "io/safetensors_header.h"
#include "kernels/quant_spec.h"
#include "sharding/row_packer.h"
#include "sharding/rules.h"
#include "sharding/stored_layer.h"

namespace halfquad {

struct OutputFile;
class OutputCatalog;
class OutputLayout;

/// The file format that tensors lie in.
enum class Container : std::uint8_t { kSafetensors, kHdf5, kGguf };

/// A tensor of the output, without its place.
struct TensorShape {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<std::int64_t> shape;
};

/// The tensors that stand for one quantized layer.
struct LayerTensors {
  struct Constant {
    TensorShape tensor;
    std::string bytes;
  };
  TensorShape codes;
  std::optional<TensorShape> scale, zero;
  std::optional<TensorShape> tensor_scale;  ///< One F32, where all scales are over it.
  std::optional<TensorShape> levels;        ///< F32, where they are the tensor's own.
  std::vector<Constant> constants;          ///< Known without reading any weight.
};

/// Contents of text files beside a checkpoint, by name.
using SourceTexts = std::map<std::string, std::string, std::less<>>;

/// A finished output and its quantized layers.
struct OpenedModel {
  Checkpoint checkpoint;
  std::vector<StoredLayer> layers;
};

/// What an output is made from.
struct FormatInputs {
  const Checkpoint& checkpoint;
  std::span<const Decision> decisions;
  DType stored = DType::kF16;  ///< Of scales.
  const SourceTexts& texts;    ///< Of Format::wanted_texts(), those that are there.
};

/// A kind of output that engines load: which tensors stand for a layer, how their bytes come about, and what the
/// model's config.json says of them. One object a format, for all threads; find it with format_named().
class Format {
 public:
  virtual ~Format() = default;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  [[nodiscard]] virtual Container container() const noexcept { return Container::kSafetensors; }

  /// Dtypes that scales may have, the default first.
  [[nodiscard]] virtual std::span<const DType> scale_dtypes() const noexcept;
  /// Sets what the format leaves no choice about in a layer with rows of `cols` weights.
  virtual void adapt(QuantSpec& /*spec*/, std::int64_t /*cols*/) const {}
  /// Why a [rows, cols] layer cannot be kept with this spec; nothing when it can.
  [[nodiscard]] virtual std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                           std::int64_t cols) const = 0;
  /// Settings of tensors, by name, in the named mixture. Throws kUsage for a format that has none of this name.
  [[nodiscard]] virtual std::map<std::string, SpecOverride, std::less<>> mixture(std::string_view mixture,
                                                                                 const Checkpoint& checkpoint) const;
  /// Changes decisions that do not go together in this format, or throws kUsage naming two that cannot.
  virtual void settle(const Checkpoint& /*checkpoint*/, std::vector<Decision>& /*decisions*/) const {}

  /// Null for hqq's own layout, whose codes are packed across rows.
  [[nodiscard]] virtual const RowPacker* packer() const noexcept { return nullptr; }
  /// @pre !why_not(spec, rows, cols).
  [[nodiscard]] virtual LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                                std::int64_t cols, DType stored) const = 0;
  /// Files beside the checkpoint whose contents go into the output's.
  [[nodiscard]] virtual std::vector<std::string> wanted_texts(const Checkpoint& /*checkpoint*/) const { return {}; }
  /// Puts every tensor of the output into the catalog: by default, what tensors_of() says for quantized layers, and the
  /// source's for all else.
  virtual void fill(OutputCatalog& catalog, const FormatInputs& inputs) const;
  /// Whether layers are called as in the source, and each has its tensors for itself.
  [[nodiscard]] virtual bool keeps_names() const noexcept { return true; }
  /// Whether tensors stay in the order of the catalog.
  [[nodiscard]] virtual bool keeps_order() const noexcept { return false; }
  /// `__metadata__` of every safetensors file.
  [[nodiscard]] virtual std::map<std::string, std::string> metadata(const FormatInputs& inputs) const;
  /// Name of file number `index` of `count`.
  [[nodiscard]] virtual std::string file_name(std::size_t index, std::size_t count) const;
  /// Whether one file cannot name all these tensors.
  [[nodiscard]] virtual bool too_many_for_one_file(std::span<const TensorEntry> entries) const;
  /// One file of an output, as its container wants it.
  [[nodiscard]] virtual FileImage image(const FormatInputs& inputs, const OutputLayout& layout,
                                        const OutputFile& file) const;
  /// The source's config.json with what loaders need to know of the quantization.
  [[nodiscard]] virtual boost::json::object config(const Checkpoint& checkpoint,
                                                   std::span<const Decision> decisions) const = 0;
  /// What users of this format should be told about names or specs, one sentence each.
  [[nodiscard]] virtual std::vector<std::string> warnings(const FormatInputs& /*inputs*/) const { return {}; }

  /// Opens an output that is not of safetensors; nothing when `path` has none of this format.
  [[nodiscard]] virtual std::optional<OpenedModel> open(FileSystem& /*fs*/,
                                                        const std::filesystem::path& /*path*/) const {
    return std::nullopt;
  }
  /// Whether a checkpoint is an output of this format, by its config and tensors.
  [[nodiscard]] virtual bool made(const Checkpoint& checkpoint) const = 0;
  /// Its quantized layers. Throws kBadInput naming layer and tensor when one that loaders need is missing, or has the
  /// wrong dtype, shape or value (loaders fail open on most of these). @pre made(checkpoint).
  [[nodiscard]] virtual std::vector<StoredLayer> layers(const Checkpoint& checkpoint,
                                                        SmallTensorReader& reader) const = 0;
};

/// Puts an unquantized tensor into the catalog: as it is, or decoded.
void add_kept(OutputCatalog& catalog, std::size_t source, const SourceTensor& tensor);

/// All formats, hqq's own first.
[[nodiscard]] std::span<const Format* const> formats();
/// Null when there is none of this name.
[[nodiscard]] const Format* format_named(std::string_view name) noexcept;
[[nodiscard]] const Format& hqq_format() noexcept;

}  // namespace halfquad
