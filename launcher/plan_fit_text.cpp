#include <algorithm>
#include <map>
#include <set>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/engines.h"
#include "launcher/plan_fit.h"
#include "launcher/table.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

std::string cache_shape_text(const CacheShape& cache) {
  const std::string of_layer = cache.key_value_heads == 0
                                   ? fmt::format("{} values a token", cache.head_size)
                                   : fmt::format("{} key/value heads of {}", cache.key_value_heads, cache.head_size);
  if (cache.windowed_layers == 0) return fmt::format("{} layers, {}, 16 bit", cache.layers, of_layer);
  return fmt::format("{} layers and {} with a window of {}, {}, 16 bit", cache.layers, cache.windowed_layers,
                     cache.window, of_layer);
}

std::string cache_text(const CardFit& fit) {
  if (!fit.model.generates) return "no cache (an encoder)";
  if (!fit.model.cache) return "a cache of unknown size (the config does not say)";
  return fmt::format("cache {} ({} tokens; {})", human_bytes(fit.cache_bytes), fit.context,
                     cache_shape_text(*fit.model.cache));
}

bool fits(const SizedChoice& choice, const CardFit& fit) { return choice.bytes <= fit.room(); }

/// A size, in parentheses when the card has no room for it.
std::string size_text(const SizedChoice& choice, const CardFit& fit) {
  if (!choice.why_not.empty()) return "-";
  std::string text = human_bytes(choice.bytes);
  if (choice.misfits > 0) text += fmt::format(", {} kept", choice.misfits);
  return fits(choice, fit) ? text : fmt::format("({})", text);
}

std::string mixtures_text(const Alternatives& alternatives, const CardFit& fit) {
  Table table("lrr", {"output size", "", "bits a weight"});
  std::vector<const SizedChoice*> by_size;
  for (const SizedChoice& choice : alternatives.choices) by_size.push_back(&choice);
  std::ranges::stable_sort(by_size, std::greater(), &SizedChoice::bytes);
  for (const SizedChoice* choice : by_size) {
    if (choice->why_not.empty()) {
      table.add_row({choice->choice.mixture, size_text(*choice, fit), fmt::format("{:.2f}", choice->bits_per_weight)});
    }
  }
  return table.empty() ? std::string() : table.text(2);
}

std::string widths_text(const Alternatives& alternatives, const CardFit& fit) {
  std::set<std::int64_t> groups;
  std::map<CodeWidth, std::map<std::int64_t, std::string>, std::greater<>> rows;
  for (const SizedChoice& choice : alternatives.choices) {
    groups.insert(*choice.choice.group_size);
    if (choice.why_not.empty()) rows[*choice.choice.width][*choice.choice.group_size] = size_text(choice, fit);
  }
  if (rows.empty()) return {};
  std::vector<std::string> titles = {"output size"};
  for (const std::int64_t group : groups) titles.push_back(fmt::format("groups of {}", group));
  Table table("l" + std::string(groups.size(), 'r'), titles);
  for (const auto& [width, sizes] : rows) {
    std::vector<std::string> cells = {fmt::format("{} bit", name_of(width))};
    for (const std::int64_t group : groups) cells.push_back(sizes.contains(group) ? sizes.at(group) : "-");
    table.add_row(cells);
  }
  return table.text(2);
}

std::string formats_text(const Alternatives& alternatives, const CardFit& fit) {
  Table table("lrl", {"format", "size", "loaded by"});
  for (const FormatSize& format : alternatives.formats) {
    const bool holds = format.size.why_not.empty();
    table.add_row({format.format, holds ? size_text(format.size, fit) : "-",
                   holds ? loaded_by(format.format) : "not so: " + format.size.why_not});
  }
  return table.text(2);
}

json::object choice_json(const SizedChoice& choice, const CardFit& fit) {
  json::object out{{"options", choice.choice.options()}};
  if (!choice.why_not.empty()) {
    out["why_not"] = choice.why_not;
    return out;
  }
  out["bytes"] = choice.bytes;
  out["bits_per_weight"] = choice.bits_per_weight;
  out["expected_error"] = choice.expected_error;
  out["layers"] = choice.layers;
  out["kept_for_shape"] = choice.misfits;
  out["fits"] = fits(choice, fit);
  return out;
}

}  // namespace

std::string card_text(const CardFit& fit) {
  const std::uint64_t needed = fit.needed();
  std::string text = fit.fits() ? fmt::format("fits on {}, with {} to spare", human_bytes(fit.card_bytes),
                                              human_bytes(fit.card_bytes - needed))
                                : fmt::format("does not fit on {}: {} too much", human_bytes(fit.card_bytes),
                                              human_bytes(needed - fit.card_bytes));
  if (const std::optional<std::int64_t> longest = fit.longest_context(); longest && fit.model.generates) {
    text += fmt::format("; room for {} tokens{}", *longest,
                        *longest == fit.model.longest_context ? ", all it was made for" : "");
  }
  Table table("ll", {});
  table.add_row({"on one card", text});
  table.add_row({"", fmt::format("weights {} + {} + {} for the engine (assumed)", human_bytes(fit.weights_bytes),
                                 cache_text(fit), human_bytes(kEngineBytes))});
  return table.text(2);
}

std::string alternatives_text(const Alternatives& alternatives, const CardFit& fit) {
  const bool mixtures = !alternatives.choices.empty() && !alternatives.choices.front().choice.mixture.empty();
  std::string text = mixtures ? mixtures_text(alternatives, fit) : widths_text(alternatives, fit);
  text.append("\n").append(formats_text(alternatives, fit));
  const auto too_large = [&](const SizedChoice& choice) { return choice.why_not.empty() && !fits(choice, fit); };
  if (std::ranges::any_of(alternatives.choices, too_large) ||
      std::ranges::any_of(alternatives.formats, too_large, &FormatSize::size)) {
    text += "  (in parentheses: too large for the card with its cache)\n";
  }
  return text;
}

json::object card_json(const CardFit& fit) {
  json::object cache{{"bytes", fit.cache_bytes}, {"tokens", fit.context}, {"known", fit.model.cache.has_value()}};
  if (fit.model.cache) {
    const CacheShape& shape = *fit.model.cache;
    cache["layers"] = shape.layers;
    cache["windowed_layers"] = shape.windowed_layers;
    cache["window"] = shape.window;
    cache["key_value_heads"] = shape.key_value_heads;
    cache["head_size"] = shape.head_size;
  }
  json::object out{{"bytes", fit.card_bytes},          {"weights_bytes", fit.weights_bytes},
                   {"cache", std::move(cache)},        {"engine_bytes", kEngineBytes},
                   {"needed_bytes", fit.needed()},     {"fits", fit.fits()},
                   {"generates", fit.model.generates}, {"longest_context_of_model", fit.model.longest_context}};
  if (const auto longest = fit.longest_context()) out["longest_context_that_fits"] = *longest;
  return out;
}

json::object alternatives_json(const Alternatives& alternatives, const CardFit& fit) {
  json::array choices, formats;
  for (const SizedChoice& choice : alternatives.choices) choices.push_back(choice_json(choice, fit));
  for (const FormatSize& format : alternatives.formats) {
    json::object one = choice_json(format.size, fit);
    one.erase("options");
    one["format"] = format.format;
    one["loaded_by"] = loaded_by(format.format);
    formats.push_back(std::move(one));
  }
  return {{"choices", std::move(choices)}, {"formats", std::move(formats)}};
}

}  // namespace halfquad
