#include "launcher/target.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <set>
#include <utility>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/engines.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/model_type.h"
#include "sharding/rules.h"

namespace halfquad {
namespace {

SizeBudget budget_of(const SpecOptions& spec, const Recipe& recipe) {
  const char* option = spec.target_bpw ? "--target-bpw" : "--target-size";
  HALFQUAD_REQUIRE(spec.target_size.empty() || !spec.target_bpw, kUsage,
                   "--target-size and --target-bpw are two ways to say one thing: leave one out");
  HALFQUAD_REQUIRE(spec.bits.empty() && spec.type.empty() && spec.mixture.empty(), kUsage,
                   fmt::format("{} chooses the bits: leave --bits, --type and --mixture out", option));
  HALFQUAD_REQUIRE(
      !recipe.defaults.width, kUsage,
      fmt::format("{} chooses the bits: leave \"bits\" or \"type\" out of the recipe's defaults; its rules "
                  "may have them",
                  option));
  const bool is_gguf = spec.output_format().container() == Container::kGguf;
  HALFQUAD_REQUIRE(!is_gguf || !recipe.defaults.group_size, kUsage,
                   fmt::format("{} chooses a mixture of GGUF's types, which have groups of their own: leave "
                               "--group-size out",
                               option));
  if (spec.target_bpw) return {.bits_per_weight = spec.target_bpw};
  return {.bytes = parse_size_option(spec.target_size, option)};
}

/// Uniform choices, and what can be mixed of them; without those that leave more layers unquantized than they need.
std::vector<SizedChoice> candidates(const Context& context, const ChoiceSizer& sizer,
                                    std::span<const SpecChoice> uniform, int threads) {
  std::vector<ChoiceParts> parts(uniform.size());
  parallel_for(threads, static_cast<std::int64_t>(uniform.size()), context.stop, [&](int /*worker*/, std::int64_t i) {
    parts[static_cast<std::size_t>(i)] = sizer.parts(uniform[static_cast<std::size_t>(i)]);
  });
  std::vector<SizedChoice> sized;
  for (const ChoiceParts& choice : parts) sized.push_back(sizer.total(choice));
  std::ranges::move(sizer.mixtures(parts), std::back_inserter(sized));
  std::size_t fewest = std::numeric_limits<std::size_t>::max();
  for (const SizedChoice& choice : sized) {
    if (choice.why_not.empty()) fewest = std::min(fewest, choice.misfits);
  }
  std::erase_if(sized, [&](const SizedChoice& choice) { return choice.why_not.empty() && choice.misfits > fewest; });
  return sized;
}

[[noreturn]] void refuse(std::span<const SizedChoice> choices, const ChosenSpec& chosen, const SpecOptions& spec) {
  const std::string_view format = spec.output_format().name();
  const auto held = [](const SizedChoice& choice) { return choice.why_not.empty(); };
  if (std::ranges::none_of(choices, held)) {
    const std::string why = choices.empty() ? std::string("no settings") : choices.front().why_not;
    throw Error(ErrorCode::kUsage, fmt::format("{} cannot hold this model: {}", format, why));
  }
  const auto size = [&](const SizedChoice& choice) {
    if (!held(choice)) return std::numeric_limits<double>::infinity();
    return chosen.budget.bytes ? static_cast<double>(choice.bytes) : choice.bits_per_weight;
  };
  const SizedChoice& smallest = *std::ranges::min_element(choices, {}, size);
  const bool can_shrink = chosen.budget.bytes && spec.embeddings.empty() && holds_vocabulary(format) &&
                          spec.output_format().container() != Container::kGguf;
  throw Error(
      ErrorCode::kUsage,
      fmt::format("{} is out of reach: the smallest {} output of this model takes {}, {:.3f} bits per quantized "
                  "weight, with {}; ask for more{} or choose another --format",
                  chosen.target_text(), format, human_bytes(smallest.bytes), smallest.bits_per_weight,
                  smallest.choice.options(), can_shrink ? ", pass --embeddings 6" : ""));
}

std::vector<MixedRole> mixed_roles(const Checkpoint& checkpoint, const LayerClasses& classes,
                                   const SpecChoice& choice) {
  struct Blocks {
    std::set<std::string_view> all, wider;
  };
  std::array<Blocks, kLayerRoles> found;
  const std::string model_type = model_type_of(checkpoint.config());
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    const std::string_view module = module_of(tensor.name);
    const std::size_t layer_class = classes.of(module);
    if (layer_class == kNoLayerClass || default_keep_reason(tensor, model_type) != KeepReason::kNone) continue;
    const BlockPlace place = *block_place(module);
    const std::string_view block = module.substr(0, place.stack.size() + 1 + fmt::formatted_size("{}", place.block));
    Blocks& blocks = found[static_cast<std::size_t>(layer_role(module))];
    blocks.all.insert(block);
    if (layer_class < choice.promoted) blocks.wider.insert(block);
  }
  std::vector<MixedRole> roles;
  for (std::size_t i = 0; i < kLayerRoles; ++i) {
    if (!found[i].all.empty()) roles.push_back({static_cast<LayerRole>(i), found[i].all.size(), found[i].wider.size()});
  }
  return roles;
}

std::string groups_text(const SpecChoice& choice) {
  if (!choice.group_size) return {};
  return *choice.group_size == 0 ? std::string(", whole rows") : fmt::format(", groups of {}", *choice.group_size);
}

}  // namespace

std::string ChosenSpec::target_text() const {
  if (budget.bytes) return fmt::format("--target-size {}", human_bytes(*budget.bytes));
  return fmt::format("--target-bpw {}", *budget.bits_per_weight);
}

std::string ChosenSpec::settings_text() const {
  const SpecChoice& choice = sized.choice;
  if (!choice.mixture.empty()) return choice.mixture;
  std::string text = fmt::format("{} bit{}", name_of(*choice.width), groups_text(choice));
  std::string wider;
  for (const MixedRole& role : roles) {
    if (role.wider == 0) continue;
    wider += fmt::format("{}{}", wider.empty() ? "" : ", ", describe(role.role));
    if (role.wider < role.blocks) wider += fmt::format(" of {} of {} blocks", role.wider, role.blocks);
  }
  if (!wider.empty()) text += fmt::format("; {} bit in {}", name_of(*choice.upper), wider);
  return text;
}

std::string ChosenSpec::text() const {
  return fmt::format("{}: {} ({}, {:.3f} bits per quantized weight)", target_text(), settings_text(),
                     human_bytes(sized.bytes), sized.bits_per_weight);
}

boost::json::object ChosenSpec::json() const {
  boost::json::object out{{"settings", settings_text()},
                          {"bytes", sized.bytes},
                          {"bits_per_weight", sized.bits_per_weight},
                          {"expected_error", sized.expected_error}};
  if (budget.bytes) out["target_bytes"] = *budget.bytes;
  if (budget.bits_per_weight) out["target_bits_per_weight"] = *budget.bits_per_weight;
  const SpecChoice& choice = sized.choice;
  if (!choice.mixture.empty()) out["mixture"] = choice.mixture;
  if (choice.width) out["bits"] = name_of(*choice.width);
  if (choice.group_size) out["group_size"] = *choice.group_size;
  if (!choice.upper) return out;
  out["wider_bits"] = name_of(*choice.upper);
  boost::json::array layers;
  for (const MixedRole& role : roles) {
    layers.push_back({{"layers", describe(role.role)}, {"blocks", role.blocks}, {"wider_blocks", role.wider}});
  }
  out["widths"] = std::move(layers);
  return out;
}

ChosenSpec choose_spec(const Context& context, const ChoiceInputs& inputs, const SpecOptions& spec, int threads) {
  ChosenSpec chosen;
  chosen.budget = budget_of(spec, inputs.recipe);
  const ChoiceSizer sizer(inputs);
  const std::vector<SpecChoice> uniform = spec_choices(inputs.format, inputs.recipe.defaults.group_size);
  const std::vector<SizedChoice> choices = candidates(context, sizer, uniform, threads);
  const std::optional<std::size_t> best = best_choice(choices, chosen.budget);
  if (!best) refuse(choices, chosen, spec);
  chosen.sized = choices[*best];
  if (chosen.sized.choice.upper) {
    chosen.roles = mixed_roles(inputs.checkpoint, inputs.outline.classes(), chosen.sized.choice);
  }
  return chosen;
}

}  // namespace halfquad
