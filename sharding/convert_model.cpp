#include "sharding/convert_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/coded_elements.h"
#include "sharding/formats/row_format.h"
#include "sharding/given_groups.h"
#include "sharding/model_type.h"

namespace halfquad {
namespace {

constexpr std::array kWidths = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};
constexpr std::array<std::int64_t, 6> kUsualGroups = {256, 128, 64, 32, 16, 8};

/// Weights of a stored layer that share a scale: consecutive ones, or those of a column.
std::int64_t group_elems(const StoredLayer& layer) {
  return layer.spec.channel_wise ? layer.tiles.grouped().group_elems : layer.rows * layer.cols;
}

std::int64_t group_elems(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  return spec.group_size != 0 ? spec.group_size : (spec.axis == 1 ? cols : rows);
}

/// The width itself, wider ones, then narrower ones, the nearest first.
std::vector<CodeWidth> widths_to_try(CodeWidth width) {
  std::vector<CodeWidth> widths;
  const auto* const own = std::ranges::find(kWidths, width);
  widths.assign(own, kWidths.end());
  widths.insert(widths.end(), std::make_reverse_iterator(own), kWidths.rend());
  return widths;
}

/// Group sizes, those with the same grids first.
std::vector<std::int64_t> groups_to_try(const StoredLayer& layer) {
  const std::int64_t elems = group_elems(layer);
  std::vector<std::int64_t> sizes = {layer.spec.channel_wise ? layer.spec.group_size : 0};
  if (elems <= layer.cols) sizes.push_back(elems);
  for (const std::int64_t size : kUsualGroups) {
    if (elems % size == 0) sizes.push_back(size);
  }
  sizes.insert(sizes.end(), kUsualGroups.begin(), kUsualGroups.end());
  return sizes;
}

class LayerConverter {
 public:
  LayerConverter(const StoredLayer& layer, const Format& from, const Format& to, std::int64_t rows, DType stored)
      : layer_(layer), from_(from), to_(to), rows_(rows), stored_(stored) {}

  /// The settings it gets in the new format; nothing when that has no place for it.
  [[nodiscard]] std::optional<QuantSpec> spec() const {
    if (layer_.spec.grid != FloatGrid::kNone) {
      QuantSpec same = layer_.spec;
      if (fits(same)) return same;
    }
    if (layer_.spec.axis == 0 || !layer_.spec.channel_wise) {
      for (const CodeWidth width : widths_to_try(layer_.spec.width)) {
        QuantSpec same = start_from(width);
        same.axis = layer_.spec.axis;
        same.channel_wise = layer_.spec.channel_wise;
        same.group_size = layer_.spec.group_size;
        if (fits(same)) return same;
      }
    }
    for (const CodeWidth width : widths_to_try(layer_.spec.width)) {
      for (const std::int64_t size : groups_to_try(layer_)) {
        QuantSpec spec = start_from(width);
        spec.group_size = size;
        if (fits(spec)) return spec;
      }
    }
    return std::nullopt;
  }

  /// Whether groups of the decision's spec are the layer's, or parts of them, and have room for its codes.
  [[nodiscard]] bool is_given(const Decision& decision) const {
    const QuantSpec& spec = decision.spec;
    if (loses_scale(decision)) return false;
    if (spec.grid != layer_.spec.grid) return false;
    if (!spec.channel_wise || spec.super_blocks || qmax(spec.width) < qmax(layer_.spec.width)) return false;
    const bool columns = layer_.spec.channel_wise && layer_.spec.axis == 0;
    if (columns != (spec.axis == 0)) return false;
    const std::int64_t have = group_elems(layer_);
    const std::int64_t want = group_elems(spec, rows_, layer_.cols);
    return want >= kCodedGridElements && (columns ? want == have : have % want == 0);
  }

  [[nodiscard]] std::string why_changed(const Decision& decision) const {
    const QuantSpec& spec = decision.spec;
    if (!is_given(decision)) return why_solved_again(decision);
    if (spec.grid != FloatGrid::kNone && (!spec.has_levels() || holds(stored_, layer_.stored))) return "";
    const bool was_offset = !layer_.tiles.whole_rows() ? false : layer_.packer->form(layer_.spec).second == kOffset;
    if (spec.zeros != ZeroKind::kFloat && layer_.spec.zeros == ZeroKind::kFloat) {
      return fmt::format("{} has no fractional zeros here", to_.name());
    }
    if (!holds(stored_, layer_.stored)) {
      return fmt::format("scales are rounded from {} to {}", name_of(layer_.stored), name_of(stored_));
    }
    const GridForm form = to_.packer() == nullptr ? GridForm{} : to_.packer()->form(spec);
    if (form.second == kOffset) {
      const bool same = was_offset && layer_.packer->form(layer_.spec).middle == form.middle && stored_ != DType::kF32;
      return same || is_symmetric_about(form) ? "" : fmt::format("offsets are rounded to {}", name_of(stored_));
    }
    const bool rounds = was_offset && spec.zeros == ZeroKind::kFloat && stored_ != DType::kF32;
    return rounds ? fmt::format("zeros are rounded to {}", name_of(stored_)) : "";
  }

 private:
  static constexpr GridForm::Second kOffset = GridForm::Second::kOffset;

  /// Whether every value of `from` is one of `to`.
  static bool holds(DType to, DType from) { return to == from || to == DType::kF32; }

  /// Offsets of symmetric zeros are scales times a power of two.
  [[nodiscard]] bool is_symmetric_about(const GridForm& form) const {
    if (layer_.spec.zeros != ZeroKind::kSymmetric) return false;
    const auto apart =
        static_cast<std::uint32_t>(std::abs(static_cast<int>(form.middle - symmetric_zero(layer_.spec.width))));
    return apart == 0 || std::has_single_bit(apart);
  }

  [[nodiscard]] QuantSpec start_from(CodeWidth width) const {
    QuantSpec spec;
    spec.width = width;
    spec.solver = layer_.spec.solver;
    const bool own = to_.packer() == nullptr;
    const bool symmetric = layer_.spec.zeros == ZeroKind::kSymmetric && layer_.spec.grid == FloatGrid::kNone;
    if (!own && symmetric) spec.zeros = ZeroKind::kSymmetric;
    // What the hqq library would have, unless its own file says.
    spec.round_zero = from_.packer() == nullptr ? layer_.spec.round_zero : width == CodeWidth::k4;
    return spec;
  }

  [[nodiscard]] bool fits(QuantSpec& spec) const {
    to_.adapt(spec, layer_.cols);
    return !to_.why_not(spec, rows_, layer_.cols);
  }

  /// Whether it has a tensor scale and the target keeps none.
  [[nodiscard]] bool loses_scale(const Decision& decision) const {
    return !decision.unscaled.empty() && (layer_.tensor_scale != 1 || !layer_.part_scales.empty());
  }

  [[nodiscard]] std::string why_solved_again(const Decision& decision) const {
    const QuantSpec& spec = decision.spec;
    if (loses_scale(decision)) return "no scale for the tensor, which llama.cpp does not apply here";
    if (spec.grid != layer_.spec.grid) return fmt::format("{} has no {} codes", to_.name(), name_of(layer_.spec.grid));
    if (qmax(spec.width) < qmax(layer_.spec.width)) {
      return fmt::format("{} bits instead of {}", name_of(spec.width), name_of(layer_.spec.width));
    }
    if (spec.super_blocks) return fmt::format("{} has scales of its own", to_.name());
    if (layer_.spec.channel_wise && layer_.spec.axis != spec.axis) return "groups along rows instead of columns";
    if (!spec.channel_wise) return "one scale for the tensor";
    return fmt::format("groups of {} instead of {}", group_elems(spec, rows_, layer_.cols), group_elems(layer_));
  }

  const StoredLayer& layer_;
  const Format& from_;
  const Format& to_;
  std::int64_t rows_;
  DType stored_;
};

DType plain_dtype(const Checkpoint& checkpoint) {
  const std::string name = model_dtype(checkpoint);
  if (name == "float32") return DType::kF32;
  return name == "float16" ? DType::kF16 : DType::kBF16;
}

class ModelConverter {
 public:
  ModelConverter(const QuantizedModel& output, PlainModel plain, const Format& format, DType stored)
      : output_(output), plain_(std::move(plain)), format_(format), stored_(stored) {}

  ConvertedModel run() {
    const std::string model_type = model_type_of(plain_.config);
    for (std::size_t i = 0; i < plain_.tensors.size(); ++i) decisions_.push_back(decide(i, model_type));
    const Checkpoint weights = checkpoint();
    format_.settle(weights, decisions_);
    HALFQUAD_REQUIRE(std::ranges::any_of(decisions_, &Decision::quantize), kUsage,
                     fmt::format("{} has no place for any of the {} quantized layers; the first: {}", format_.name(),
                                 output_.layers().size(), first_reason()));
    std::vector<std::string> changes(decisions_.size());
    for (std::size_t i = 0; i < decisions_.size(); ++i) {
      if (decisions_[i].quantize()) changes[i] = give(i);
      if (!decisions_[i].quantize() && plain_.tensors[i].layer) {
        plain_.tensors[i].tensor.kept_as = plain_dtype(weights);
        ++unplaced_;
      }
    }
    std::vector<std::string> notes = plain_.notes;
    if (unplaced_ > 0) {
      notes.push_back(
          fmt::format("{} quantized layers become plain tensors, since {} has no place for them; the first: {}",
                      unplaced_, format_.name(), first_reason()));
    }
    return {checkpoint(), std::move(decisions_), std::move(changes), std::move(notes)};
  }

 private:
  [[nodiscard]] const StoredLayer& layer_of(std::size_t index) const {
    return output_.layers()[*plain_.tensors[index].layer];
  }
  [[nodiscard]] LayerConverter converter(std::size_t index) const {
    return {layer_of(index), output_.format(), format_, plain_.tensors[index].tensor.shape[0], stored_};
  }

  Decision decide(std::size_t index, const std::string& model_type) const {
    const PlainTensor& plain = plain_.tensors[index];
    Decision decision;
    decision.source = index;
    if (!plain.layer) {
      decision.keep = default_keep_reason(plain.tensor, model_type);
      if (decision.quantize()) {
        decision.keep = KeepReason::kSkipped;
        decision.why = "not quantized in what is converted";
      }
      return decision;
    }
    if (const std::optional<QuantSpec> spec = converter(index).spec()) {
      decision.spec = *spec;
      return decision;
    }
    const StoredLayer& layer = layer_of(index);
    decision.keep = KeepReason::kFormat;
    decision.why = fmt::format("{} has no place for {} bits in groups of {} of rows of {}", format_.name(),
                               name_of(layer.spec.width), group_elems(layer), layer.cols);
    return decision;
  }

  /// Has the layer come with its codes where the new groups are its own. Returns why it may change.
  std::string give(std::size_t index) {
    PlainTensor& plain = plain_.tensors[index];
    Decision& decision = decisions_[index];
    const LayerConverter layer = converter(index);
    decision.given = layer.is_given(decision);
    if (decision.given) {
      decision.tensor_scale = layer_of(index).tensor_scale_of(plain.view.first_row);
      if (decision.spec.learns_levels()) decision.levels = layer_of(index).levels;
      LayerView view = plain.view;
      view.coded_group = group_elems(decision.spec, plain.tensor.shape[0], plain.tensor.shape[1]);
      plain.tensor.decoder = layer_decoder(output_.checkpoint(), layer_of(index), view);
    }
    return layer.why_changed(decision);
  }

  [[nodiscard]] Checkpoint checkpoint() const {
    std::vector<SourceTensor> tensors;
    for (const PlainTensor& plain : plain_.tensors) tensors.push_back(plain.tensor);
    const auto files = output_.checkpoint().files();
    return Checkpoint::of_parts({files.begin(), files.end()}, output_.checkpoint().is_single_file(), std::move(tensors),
                                plain_.config);
  }

  [[nodiscard]] std::string first_reason() const {
    for (std::size_t i = 0; i < decisions_.size(); ++i) {
      if (plain_.tensors[i].layer && !decisions_[i].quantize()) {
        return fmt::format("{}: {}", quoted(plain_.tensors[i].tensor.name), decisions_[i].why);
      }
    }
    return "none";
  }

  const QuantizedModel& output_;
  PlainModel plain_;
  const Format& format_;
  DType stored_;
  std::vector<Decision> decisions_;
  std::size_t unplaced_ = 0;
};

}  // namespace

ConvertedModel convert_model(const QuantizedModel& output, PlainModel plain, const Format& format, DType stored) {
  return ModelConverter(output, std::move(plain), format, stored).run();
}

}  // namespace halfquad
