#include "sharding/spec_chooser.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include <fmt/format.h>

#include "sharding/formats/gguf_mixture.h"
#include "sharding/gaussian.h"
#include "sharding/model_type.h"

namespace halfquad {
namespace {

constexpr std::array kWidths = {CodeWidth::k8, CodeWidth::k6, CodeWidth::k5, CodeWidth::k4,
                                CodeWidth::k3, CodeWidth::k2, CodeWidth::k1};
constexpr std::array<std::int64_t, 3> kGroups = {32, 64, 128};

/// The largest of `count` normal numbers, or of their absolute values, as Blom expects it.
double expected_largest(double count) { return normal_quantile((count - 0.375) / (count + 0.25)); }
double expected_largest_absolute(double count) { return normal_quantile((1 + (count - 0.375) / (count + 0.25)) / 2); }

}  // namespace

std::string SpecChoice::options() const {
  if (!mixture.empty()) return "--mixture " + mixture;
  std::string text;
  if (width) text = fmt::format("--bits {}", name_of(*width));
  if (group_size) text += fmt::format("{}--group-size {}", text.empty() ? "" : " ", *group_size);
  return text;
}

std::vector<SpecChoice> spec_choices(const Format& format, std::optional<std::int64_t> group_size) {
  std::vector<SpecChoice> choices;
  if (format.container() == Container::kGguf) {
    for (const std::string_view name : gguf_mixtures()) choices.push_back({.mixture = std::string(name)});
    return choices;
  }
  for (const CodeWidth width : kWidths) {
    if (group_size) choices.push_back({.width = width, .group_size = group_size});
    if (group_size) continue;
    for (const std::int64_t group : kGroups) choices.push_back({.width = width, .group_size = group});
  }
  return choices;
}

Recipe recipe_with(const SpecChoice& choice, Recipe recipe, const Format& format, const Checkpoint& checkpoint,
                   const LayerClasses& classes) {
  if (choice.width) recipe.defaults.width = choice.width;
  if (choice.group_size) recipe.defaults.group_size = choice.group_size;
  if (!choice.mixture.empty()) recipe.tensors.merge(format.mixture(choice.mixture, checkpoint));
  if (!choice.upper || recipe.defaults.keep.value_or(false)) return recipe;
  const std::string model_type = model_type_of(checkpoint.config());
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    if (classes.of(module_of(tensor.name)) >= choice.promoted) continue;
    if (default_keep_reason(tensor, model_type) != KeepReason::kNone) continue;
    recipe.tensors[tensor.name].width = choice.upper;
  }
  return recipe;
}

std::optional<std::size_t> best_choice(std::span<const SizedChoice> choices, const SizeBudget& budget) {
  std::optional<std::size_t> best;
  const auto rank = [&](std::size_t i) { return std::tuple(choices[i].expected_error, choices[i].bytes, i); };
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].why_not.empty() || !budget.holds(choices[i].bytes, choices[i].bits_per_weight)) continue;
    if (!best || rank(i) < rank(*best)) best = i;
  }
  return best;
}

std::optional<std::size_t> smallest_choice(std::span<const SizedChoice> choices) {
  std::optional<std::size_t> smallest;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].why_not.empty()) continue;
    if (!smallest || choices[i].bytes < choices[*smallest].bytes) smallest = i;
  }
  return smallest;
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
