#include "sharding/choice_sizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "runtime/error.h"
#include "sharding/model_type.h"
#include "sharding/rules.h"

namespace halfquad {
namespace {

/// Why the format takes no layer of this recipe: of the model's first one.
std::optional<std::string> refusal(const Recipe& recipe, const ChoiceInputs& inputs, const Checkpoint& checkpoint) {
  if (!recipe.tensors.empty() || !inputs.recipe.rules.empty() || !inputs.limits.why_not) return std::nullopt;
  const std::string model_type = model_type_of(checkpoint.config());
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    if (tensor.shape.size() != 2 || default_keep_reason(tensor, model_type) != KeepReason::kNone) continue;
    QuantSpec spec;
    recipe.defaults.apply_to(spec);
    if (inputs.limits.adapt) inputs.limits.adapt(spec, tensor.shape[1]);
    return inputs.limits.why_not(spec, tensor.shape[0], tensor.shape[1]);
  }
  return std::nullopt;
}

/// The same where rules say something of some layers: why no layer has the width of the choice.
std::optional<std::string> refusal(const SpecChoice& choice, std::span<const Decision> decisions) {
  const Decision* misfit = nullptr;
  for (const Decision& decision : decisions) {
    if (!choice.width || (decision.quantize() && decision.spec.width == *choice.width)) return std::nullopt;
    if (decision.keep == KeepReason::kShape && decision.spec.width == *choice.width) misfit = &decision;
  }
  return misfit != nullptr ? std::optional(misfit->why) : std::nullopt;
}

std::uint64_t bytes_of(const ChoiceParts& parts) {
  std::uint64_t bytes = 0;
  for (const OutputPortion& portion : parts.portions) bytes += portion.bytes;
  return bytes;
}

bool is_narrower(const ChoiceParts& parts, const ChoiceParts& than) {
  return parts.why_not.empty() && parts.choice.width && than.choice.width &&
         parts.choice.group_size == than.choice.group_size && *parts.choice.width < *than.choice.width;
}

/// Of `choices` the one with the next smaller width and the same groups that takes less room: hqq's own layout has
/// bytes for 5 and 6 bit, too.
const ChoiceParts* next_narrower(std::span<const ChoiceParts> choices, const ChoiceParts& upper) {
  const ChoiceParts* found = nullptr;
  for (const ChoiceParts& lower : choices) {
    if (!is_narrower(lower, upper) || bytes_of(lower) >= bytes_of(upper)) continue;
    if (found == nullptr || is_narrower(*found, lower)) found = &lower;
  }
  return found;
}

}  // namespace

OutputPortion& OutputPortion::operator+=(const OutputPortion& other) noexcept {
  bytes += other.bytes;
  weights += other.weights;
  layer_bytes += other.layer_bytes;
  square_error += other.square_error;
  layers += other.layers;
  misfits += other.misfits;
  return *this;
}

ChoiceSizer::ChoiceSizer(const ChoiceInputs& inputs)
    : inputs_(inputs),
      by_outline_(inputs.format.keeps_names()),
      checkpoint_(by_outline_ ? inputs.outline.alike() : inputs.checkpoint) {}

ModelOutline::Place ChoiceSizer::place_of(std::string_view module) const {
  return by_outline_ ? inputs_.outline.place_of(module) : ModelOutline::Place{};
}

void ChoiceSizer::take_layers(std::span<const Decision> decisions, const ModelOutline::Place& place,
                              OutputPortion& portion) const {
  OutputCatalog catalog;
  inputs_.format.fill(catalog, {checkpoint_, decisions, inputs_.stored, inputs_.texts});
  portion.bytes += place.times * catalog.data_bytes();
  const auto times = static_cast<double>(place.times);
  for (const QuantizedTensor& layer : catalog.layers()) {
    const double count = times * static_cast<double>(layer.rows) * static_cast<double>(layer.cols);
    const double error = expected_error(layer.spec, layer.rows, layer.cols);
    portion.weights += count;
    portion.layer_bytes += times * static_cast<double>(stored_bytes_of(layer, inputs_.stored));
    portion.square_error += count * error * error;
    portion.layers += static_cast<std::size_t>(place.times);
  }
}

ChoiceParts ChoiceSizer::parts(const SpecChoice& choice) const {
  ChoiceParts parts{.choice = choice};
  try {
    const Recipe recipe = recipe_with(choice, inputs_.recipe, inputs_.format, checkpoint_, inputs_.outline.classes());
    if (const auto reason = refusal(recipe, inputs_, checkpoint_)) {
      parts.why_not = *reason;
      return parts;
    }
    std::vector<Decision> decisions = decide(checkpoint_, recipe, inputs_.limits);
    inputs_.format.settle(checkpoint_, decisions);
    if (const auto reason = refusal(choice, decisions)) {
      parts.why_not = *reason;
      return parts;
    }
    std::map<std::pair<std::size_t, std::uint64_t>, std::vector<Decision>> alike;  // by class and how often
    for (const Decision& decision : decisions) {
      const ModelOutline::Place place = place_of(module_part(checkpoint_.tensors()[decision.source].name));
      if (decision.keep == KeepReason::kShape) parts.portions[place.layer_class].misfits += place.times;
      alike[{place.layer_class, place.times}].push_back(decision);
    }
    for (const auto& [place, of_place] : alike) {
      take_layers(of_place, {place.first, place.second}, parts.portions[place.first]);
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUsage && error.code() != ErrorCode::kBadInput) throw;
    parts.why_not = error.what();
  }
  return parts;
}

SizedChoice ChoiceSizer::total(const ChoiceParts& parts) const {
  SizedChoice sized;
  sized.choice = parts.choice;
  sized.why_not = parts.why_not;
  if (!sized.why_not.empty()) return sized;
  OutputPortion sum;
  for (const OutputPortion& portion : parts.portions) sum += portion;
  sized.bytes = sum.bytes;
  sized.bits_per_weight = sum.weights > 0 ? 8 * sum.layer_bytes / sum.weights : 0;
  sized.expected_error = inputs_.outline.weights() > 0 ? std::sqrt(sum.square_error / inputs_.outline.weights()) : 0;
  sized.layers = sum.layers;
  sized.misfits = sum.misfits;
  return sized;
}

std::vector<SizedChoice> ChoiceSizer::mixtures(std::span<const ChoiceParts> choices) const {
  std::vector<SizedChoice> mixed;
  for (const ChoiceParts& upper : choices) {
    const ChoiceParts* lower = upper.why_not.empty() ? next_narrower(choices, upper) : nullptr;
    if (lower == nullptr) continue;
    ChoiceParts mixture = *lower;
    const std::size_t before = mixed.size();
    mixture.choice.upper = upper.choice.width;
    for (std::size_t i = 0; i < kLayerClasses; ++i) {
      if (upper.portions[i].layers + lower->portions[i].layers == 0) continue;
      mixture.portions[i] = upper.portions[i];
      mixture.choice.promoted = i + 1;
      mixed.push_back(total(mixture));
    }
    if (mixed.size() > before) mixed.pop_back();  // all of them: no mixture
  }
  return mixed;
}

}  // namespace halfquad
