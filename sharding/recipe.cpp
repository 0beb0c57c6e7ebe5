#include <charconv>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include <boost/json.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/block_type.h"
#include "sharding/rules.h"

namespace halfquad {
namespace {

constexpr std::string_view kRuleKeys =
    "bits, group-size, type, axis, solver, iters, starts, importance, round-zero, per-tensor, keep";

std::optional<std::int64_t> to_int(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<bool> to_switch(std::string_view text) {
  if (text == "on") return true;
  if (text == "off") return false;
  return std::nullopt;
}

std::optional<std::int64_t> to_group_size(std::string_view text) {
  if (text == "row") return 0;
  const std::optional<std::int64_t> value = to_int(text);
  return value && *value >= 0 ? value : std::nullopt;
}

std::optional<int> to_int_in(std::string_view text, int lo, int hi) {
  const std::optional<std::int64_t> value = to_int(text);
  if (!value || *value < lo || *value > hi) return std::nullopt;
  return static_cast<int>(*value);
}

/// Stores `parsed` and says whether there was something to store.
template <class T>
bool store(std::optional<T>& into, std::optional<T> parsed) {
  into = std::move(parsed);
  return into.has_value();
}

/// Sets one key (spelled with dashes) from text. Returns what the value should have been when it is wrong, "" when all
/// is well, nothing for an unknown key.
std::optional<std::string_view> set_key(SpecOverride& spec, std::string_view key, std::string_view value) {
  const auto verdict = [](bool ok, std::string_view wanted) { return ok ? std::string_view() : wanted; };
  if (key == "bits") {
    spec.super_blocks = false;  // whatever type a wider rule gave
    spec.grid = FloatGrid::kNone;
    spec.zeros = ZeroKind::kFloat;
    return verdict(store(spec.width, code_width_from_name(value)), "one of 8 6 5 4 3 2 1.58 1");
  }
  if (key == "type") return verdict(apply_type(value, spec), type_names());
  if (key == "group-size") {
    return verdict(store(spec.group_size, to_group_size(value)), "a positive number, or 'row' or 0 for whole rows");
  }
  if (key == "axis") return verdict(store(spec.axis, to_int_in(value, 0, 1)), "0 or 1");
  if (key == "solver") return verdict(store(spec.solver, solver_from_name(value)), "hqq, als or rtn");
  if (key == "iters") return verdict(store(spec.iters, to_int_in(value, 1, QuantSpec::kMaxIters)), "1 to 1000");
  if (key == "starts") return verdict(store(spec.starts, to_int_in(value, 1, QuantSpec::kMaxStarts)), "1 to 41");
  if (key == "importance") {
    return verdict(store(spec.importance, importance_from_name(value)), "none, weights or file");
  }
  if (key == "round-zero") return verdict(store(spec.round_zero, to_switch(value)), "on or off");
  if (key == "keep") return verdict(store(spec.keep, to_switch(value)), "on or off");
  if (key == "per-tensor") {
    const std::optional<bool> on = to_switch(value);
    return verdict(store(spec.channel_wise, on ? std::optional(!*on) : std::nullopt), "on or off");
  }
  return std::nullopt;
}

/// A JSON scalar as the text set_key() reads; "" for what no key accepts.
std::string scalar_text(const boost::json::value& value) {
  if (value.is_bool()) return value.get_bool() ? "on" : "off";
  if (value.is_string()) return std::string(value.get_string());
  if (value.is_int64()) return std::to_string(value.get_int64());
  if (value.is_uint64()) return std::to_string(value.get_uint64());
  if (value.is_double()) return fmt::format("{}", value.get_double());
  return {};
}

class RecipeParser {
 public:
  explicit RecipeParser(std::string_view file) : file_(file) {}

  Recipe parse(std::string_view json) const {
    const boost::json::value root = parse_json(json, fmt::format("recipe {}", quoted(file_)));
    require(root.is_object(), "must be a JSON object such as {\"bits\": 4, \"rules\": []}");
    Recipe recipe;
    for (const auto& [key, value] : root.get_object()) {
      if (key == "rules") {
        recipe.rules = rules(value);
      } else if (key == "skip") {
        recipe.skip = patterns(value);
      } else {
        set(recipe.defaults, key, value, "the recipe");
      }
    }
    return recipe;
  }

 private:
  void require(bool condition, const std::string& message) const {
    HALFQUAD_REQUIRE(condition, kBadInput, fmt::format("recipe {}: {}", quoted(file_), message));
  }

  void set(SpecOverride& spec, std::string_view key, const boost::json::value& value, const std::string& where) const {
    std::string dashed;
    for (const char c : key) dashed.push_back(c == '_' ? '-' : c);
    // The file spells keys with underscores alone, so that each has one name.
    const std::optional<std::string_view> wanted =
        key.find('-') == key.npos ? set_key(spec, dashed, scalar_text(value)) : std::optional<std::string_view>();
    require(wanted.has_value(),
            fmt::format("{} has the unknown key {}; known are bits, group_size, type, axis, solver, "
                        "iters, starts, importance, round_zero, per_tensor, keep{}",
                        where, quoted(key), where == "the recipe" ? ", rules, skip" : ", match"));
    require(wanted->empty(), fmt::format("{}: {} must be {}, not {}", where, quoted(key), *wanted,
                                         halfquad::quoted(boost::json::serialize(value))));
  }

  std::string pattern(const boost::json::value& value, const std::string& where) const {
    require(value.is_string() && !value.get_string().empty(),
            fmt::format("{} must be a regular expression in a non-empty string", where));
    return std::string(value.get_string());
  }

  std::vector<Rule> rules(const boost::json::value& value) const {
    require(value.is_array(), "\"rules\" must be an array of objects");
    std::vector<Rule> rules;
    for (const boost::json::value& item : value.get_array()) {
      const std::string where = fmt::format("rules[{}]", rules.size());
      require(item.is_object(), where + " must be an object such as {\"match\": \"down_proj\", \"bits\": 3}");
      require(item.get_object().contains("match"), where + " lacks \"match\", the regular expression it applies to");
      require(item.get_object().size() > 1, where + " sets nothing; add for example \"bits\": 3");
      Rule rule;
      for (const auto& [key, entry] : item.get_object()) {
        if (key == "match") {
          rule.pattern = pattern(entry, where + ": \"match\"");
        } else {
          set(rule.spec, key, entry, where);
        }
      }
      rules.push_back(std::move(rule));
    }
    return rules;
  }

  std::vector<std::string> patterns(const boost::json::value& value) const {
    require(value.is_array(), "\"skip\" must be an array of regular expressions");
    std::vector<std::string> skip;
    for (const boost::json::value& item : value.get_array()) {
      skip.push_back(pattern(item, fmt::format("skip[{}]", skip.size())));
    }
    return skip;
  }

  std::string_view file_;
};

/// Sets one "key:value" of a rule; `seen` holds the keys so far.
void set_rule_part(Rule& rule, std::string_view part, std::set<std::string_view>& seen, std::string_view text) {
  const std::size_t colon = part.find(':');
  HALFQUAD_REQUIRE(
      colon != part.npos, kUsage,
      fmt::format("rule {}: {} is not of the form key:value; an example is bits:3", quoted(text), quoted(part)));
  const std::string_view key = part.substr(0, colon);
  const std::string_view value = part.substr(colon + 1);
  HALFQUAD_REQUIRE(seen.insert(key).second, kUsage,
                   fmt::format("rule {}: the key {} is given twice", quoted(text), quoted(key)));
  const std::optional<std::string_view> wanted = set_key(rule.spec, key, value);
  HALFQUAD_REQUIRE(wanted.has_value(), kUsage,
                   fmt::format("rule {}: unknown key {}; known are {}", quoted(text), quoted(key), kRuleKeys));
  HALFQUAD_REQUIRE(wanted->empty(), kUsage,
                   fmt::format("rule {}: {} must be {}, not {}", quoted(text), key, *wanted, quoted(value)));
}

}  // namespace

void SpecOverride::apply_to(QuantSpec& spec) const {
  spec.width = width.value_or(spec.width);
  spec.group_size = group_size.value_or(spec.group_size);
  spec.axis = axis.value_or(spec.axis);
  spec.solver = solver.value_or(spec.solver);
  spec.iters = iters.value_or(spec.iters);
  spec.rounds = iters.value_or(spec.rounds);
  spec.starts = starts.value_or(spec.starts);
  spec.importance = importance.value_or(spec.importance);
  spec.importance_power = importance_power.value_or(spec.importance_power);
  spec.round_zero = round_zero.value_or(spec.round_zero);
  spec.channel_wise = channel_wise.value_or(spec.channel_wise);
  spec.zeros = zeros.value_or(spec.zeros);
  spec.super_blocks = super_blocks.value_or(spec.super_blocks);
  spec.grid = grid.value_or(spec.grid);
}

Rule parse_rule(std::string_view text) {
  const std::size_t equals = text.rfind('=');
  HALFQUAD_REQUIRE(
      equals != text.npos && equals > 0 && equals + 1 < text.size(), kUsage,
      fmt::format("rule {} is not of the form REGEX=key:value,...; an example is 'down_proj=bits:3'", quoted(text)));
  Rule rule;
  rule.pattern = text.substr(0, equals);
  std::set<std::string_view> seen;
  std::string_view rest = text.substr(equals + 1);
  while (true) {
    const std::size_t comma = rest.find(',');
    set_rule_part(rule, rest.substr(0, comma), seen, text);
    if (comma == rest.npos) return rule;
    rest.remove_prefix(comma + 1);
  }
}

Recipe parse_recipe(std::string_view json, std::string_view file) { return RecipeParser(file).parse(json); }

}  // namespace halfquad
