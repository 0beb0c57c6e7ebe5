#include "sharding/spec_chooser.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include <fmt/format.h>

#include "runtime/error.h"
#include "sharding/formats/gguf_mixture.h"
#include "sharding/gaussian.h"

namespace halfquad {
namespace {

constexpr std::array kWidths = {CodeWidth::k8, CodeWidth::k6, CodeWidth::k5, CodeWidth::k4,
                                CodeWidth::k3, CodeWidth::k2, CodeWidth::k1};
constexpr std::array<std::int64_t, 3> kGroups = {32, 64, 128};

/// The largest of `count` normal numbers, or of their absolute values, as Blom expects it.
double expected_largest(double count) { return normal_quantile((count - 0.375) / (count + 0.25)); }
double expected_largest_absolute(double count) { return normal_quantile((1 + (count - 0.375) / (count + 0.25)) / 2); }

Recipe recipe_with(const SpecChoice& choice, const ChoiceInputs& inputs) {
  Recipe recipe = inputs.recipe;
  if (choice.width) recipe.defaults.width = choice.width;
  if (choice.group_size) recipe.defaults.group_size = choice.group_size;
  if (!choice.mixture.empty()) recipe.tensors = inputs.format.mixture(choice.mixture, inputs.checkpoint);
  return recipe;
}

/// Why the format takes no layer of this recipe: of the model's first one.
std::optional<std::string> refusal(const Recipe& recipe, const ChoiceInputs& inputs) {
  if (!recipe.tensors.empty() || !inputs.limits.why_not) return std::nullopt;
  const auto& config = inputs.checkpoint.config();
  const auto* type = config ? config->if_contains("model_type") : nullptr;
  const std::string model_type = type != nullptr && type->is_string() ? std::string(type->get_string()) : std::string();
  for (const SourceTensor& tensor : inputs.checkpoint.tensors()) {
    if (tensor.shape.size() != 2 || default_keep_reason(tensor, model_type) != KeepReason::kNone) continue;
    QuantSpec spec;
    recipe.defaults.apply_to(spec);
    if (inputs.limits.adapt) inputs.limits.adapt(spec, tensor.shape[1]);
    return inputs.limits.why_not(spec, tensor.shape[0], tensor.shape[1]);
  }
  return std::nullopt;
}

void take_catalog(const OutputCatalog& catalog, const ChoiceInputs& inputs, SizedChoice& sized) {
  sized.bytes = catalog.data_bytes();
  double weights = 0, bytes = 0, square = 0, all = 0;
  for (const QuantizedTensor& layer : catalog.layers()) {
    const double count = static_cast<double>(layer.rows) * static_cast<double>(layer.cols);
    const double error = expected_error(layer.spec, layer.rows, layer.cols);
    weights += count;
    square += count * error * error;
    bytes += static_cast<double>(stored_bytes_of(layer, inputs.stored));
  }
  for (const SourceTensor& tensor : inputs.checkpoint.tensors()) all += static_cast<double>(tensor.elements());
  sized.bits_per_weight = weights > 0 ? 8 * bytes / weights : 0;
  sized.expected_error = all > 0 ? std::sqrt(square / all) : 0;
  sized.layers = catalog.layers().size();
}

}  // namespace

std::string SpecChoice::options() const {
  if (!mixture.empty()) return "--mixture " + mixture;
  std::string text;
  if (width) text = fmt::format("--bits {}", name_of(*width));
  if (group_size) text += fmt::format("{}--group-size {}", text.empty() ? "" : " ", *group_size);
  return text;
}

std::vector<SpecChoice> spec_choices(const Format& format) {
  std::vector<SpecChoice> choices;
  if (format.container() == Container::kGguf) {
    for (const std::string_view name : gguf_mixtures()) choices.push_back({.mixture = std::string(name)});
    return choices;
  }
  for (const CodeWidth width : kWidths) {
    for (const std::int64_t group : kGroups) choices.push_back({.width = width, .group_size = group});
  }
  return choices;
}

SizedChoice size_choice(const SpecChoice& choice, const ChoiceInputs& inputs) {
  SizedChoice sized;
  sized.choice = choice;
  try {
    const Recipe recipe = recipe_with(choice, inputs);
    if (const auto reason = refusal(recipe, inputs); reason && inputs.recipe.rules.empty()) {
      sized.why_not = *reason;
      return sized;
    }
    std::vector<Decision> decisions = decide(inputs.checkpoint, recipe, inputs.limits);
    inputs.format.settle(inputs.checkpoint, decisions);
    sized.misfits = static_cast<std::size_t>(std::ranges::count(decisions, KeepReason::kShape, &Decision::keep));
    OutputCatalog catalog;
    inputs.format.fill(catalog, {inputs.checkpoint, decisions, inputs.stored, inputs.texts});
    take_catalog(catalog, inputs, sized);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUsage && error.code() != ErrorCode::kBadInput) throw;
    sized.why_not = error.what();
  }
  return sized;
}

std::optional<std::size_t> best_choice(std::span<const SizedChoice> choices, std::uint64_t room) {
  std::optional<std::size_t> best;
  const auto rank = [&](std::size_t i) { return std::tuple(choices[i].expected_error, choices[i].bytes, i); };
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].why_not.empty() || choices[i].bytes > room) continue;
    if (!best || rank(i) < rank(*best)) best = i;
  }
  return best;
}

double expected_error(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  double count = static_cast<double>(spec.group_size);
  if (spec.group_size == 0) count = static_cast<double>(spec.axis == 1 ? cols : rows);
  if (!spec.channel_wise) count = static_cast<double>(rows) * static_cast<double>(cols);
  count = std::max(count, 2.0);
  const double range =
      2 * (spec.zeros == ZeroKind::kSymmetric ? expected_largest_absolute(count) : expected_largest(count));
  return range / (qmax(spec.width) * std::sqrt(12.0));
}

std::uint64_t stored_bytes_of(const QuantizedTensor& layer, DType stored) {
  // Not the entries' sizes: one tensor can hold many layers.
  const std::int64_t bytes = bytes_of(stored);
  return layer.tiles.code_blocks().total_bytes + layer.tiles.scale_blocks(bytes).total_bytes +
         layer.tiles.zero_blocks(bytes).total_bytes;
}

}  // namespace halfquad
