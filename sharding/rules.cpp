#include "sharding/rules.h"

#include <map>
#include <stdexcept>
#include <utility>

#include <boost/regex.hpp>
#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/best_solver.h"
#include "sharding/gguf_source.h"
#include "sharding/model_type.h"
#include "sharding/recipe_marks.h"

namespace halfquad {
namespace {

/// One pattern of the recipe, compiled, and what it has met so far.
class Pattern {
 public:
  Pattern(std::string text, std::string_view kind) : text_(std::move(text)), kind_(kind) {
    try {
      regex_.assign(text_, boost::regex::perl);
    } catch (const std::runtime_error& error) {
      throw Error(ErrorCode::kUsage, fmt::format("the {} {} is not a valid regular expression: {}", kind_,
                                                 halfquad::quoted(text_), error.what()));
    }
  }

  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  [[nodiscard]] std::string_view kind() const noexcept { return kind_; }

  [[nodiscard]] bool finds(const std::string& name) {
    try {
      if (!boost::regex_search(name, regex_)) return false;
    } catch (const std::runtime_error&) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("the {} {} takes too long to match {}; write it with fewer nested repetitions", kind_,
                              halfquad::quoted(text_), halfquad::quoted(name)));
    }
    ++matches;
    return true;
  }

  std::size_t matches = 0;
  std::size_t quantizable = 0;  ///< Matches that are 2-D float weights.

 private:
  std::string text_;
  std::string_view kind_;
  boost::regex regex_;
};

/// Whether a rule can have this tensor quantized at all.
bool is_quantizable(const SourceTensor& tensor) {
  return tensor.name.ends_with(".weight") && tensor.shape.size() == 2 && is_float_source(tensor.dtype);
}

void merge(SpecOverride& into, const SpecOverride& from) {
  const auto take = [](auto& to, const auto& value) {
    if (value) to = value;
  };
  take(into.width, from.width);
  take(into.group_size, from.group_size);
  take(into.axis, from.axis);
  take(into.solver, from.solver);
  take(into.iters, from.iters);
  take(into.starts, from.starts);
  take(into.importance, from.importance);
  take(into.importance_power, from.importance_power);
  take(into.round_zero, from.round_zero);
  take(into.channel_wise, from.channel_wise);
  take(into.zeros, from.zeros);
  take(into.super_blocks, from.super_blocks);
  take(into.grid, from.grid);
}

const boost::json::object* quantization_config_of(const boost::json::object& config) {
  for (const std::string_view key : {"quantization_config", "compression_config"}) {
    const boost::json::value* found = config.if_contains(key);
    if (found != nullptr && found->is_object()) return &found->get_object();
  }
  const boost::json::value* text = config.if_contains("text_config");
  return text != nullptr && text->is_object() ? quantization_config_of(text->get_object()) : nullptr;
}

void require_unquantized_source(const Checkpoint& checkpoint) {
  if (!checkpoint.config()) return;
  const boost::json::object* config = quantization_config_of(*checkpoint.config());
  if (config == nullptr) return;
  const boost::json::value* method = config->if_contains("quant_method");
  const std::string name =
      method != nullptr && method->is_string() ? std::string(method->get_string()) : std::string("unnamed");
  throw Error(ErrorCode::kBadInput,
              fmt::format("config.json says this checkpoint is already quantized (quant_method {}); give the original "
                          "checkpoint with F32, F16, BF16 or F64 weights instead",
                          halfquad::quoted(name)));
}

class Decider {
 public:
  Decider(const Checkpoint& checkpoint, const Recipe& recipe, const SpecLimits& format)
      : checkpoint_(checkpoint), recipe_(recipe), format_(format), model_type_(model_type_of(checkpoint.config())) {
    for (const Rule& rule : recipe.rules) rules_.emplace_back(rule.pattern, "rule");
    for (const std::string& skip : recipe.skip) skips_.emplace_back(skip, "skip pattern");
  }

  std::vector<Decision> run() {
    std::vector<Decision> decisions;
    decisions.reserve(checkpoint_.tensors().size());
    for (std::size_t i = 0; i < checkpoint_.tensors().size(); ++i) decisions.push_back(decide_one(i));
    require_matches();
    require_any_quantized(decisions);
    return decisions;
  }

  std::vector<std::string> marks() {
    std::vector<std::string> marks;
    marks.reserve(checkpoint_.tensors().size());
    for (const SourceTensor& tensor : checkpoint_.tensors()) {
      std::string& mark = marks.emplace_back();
      for (Pattern& rule : rules_) mark.push_back(applies(rule, tensor) ? '1' : '0');
      for (Pattern& skip : skips_) mark.push_back(skip.finds(tensor.name) ? '1' : '0');
    }
    require_matches();
    return marks;
  }

 private:
  void require_matches() const {
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      require_match(rules_[i]);
      if (!recipe_.rules[i].spec.keep.value_or(false)) require_quantizable(rules_[i]);
    }
    for (const Pattern& skip : skips_) require_match(skip);
  }

  [[nodiscard]] KeepReason default_reason(const SourceTensor& tensor) const {
    return checkpoint_.gguf() != nullptr ? gguf_keep_reason(tensor) : default_keep_reason(tensor, model_type_);
  }

  Decision decide_one(std::size_t index) {
    const SourceTensor& tensor = checkpoint_.tensors()[index];
    Decision decision;
    decision.source = index;
    decision.keep = default_reason(tensor);
    if (decision.keep == KeepReason::kNotAWeight && tensor.shape.size() > 2) {
      decision.why = fmt::format("{}-D tensor", tensor.shape.size());
    }
    SpecOverride spec = recipe_.defaults;
    if (decision.quantize() && recipe_.defaults.keep.value_or(false)) {
      decision.keep = KeepReason::kSkipped;
      decision.why = "keep is the recipe's default";
    }
    if (const auto named = recipe_.tensors.find(tensor.name); named != recipe_.tensors.end()) {
      merge(spec, named->second);
      decision.keep = KeepReason::kNone;
      decision.why.clear();
    }
    apply_rules(tensor, spec, decision);
    apply_skips(tensor, decision);
    if (decision.quantize()) settle_spec(tensor, spec, decision);
    return decision;
  }

  /// Whether a rule finds a tensor that it can have quantized.
  static bool applies(Pattern& rule, const SourceTensor& tensor) {
    if (!rule.finds(tensor.name) || !is_quantizable(tensor)) return false;
    ++rule.quantizable;
    return true;
  }

  void apply_rules(const SourceTensor& tensor, SpecOverride& spec, Decision& decision) {
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      if (!applies(rules_[i], tensor)) continue;
      const SpecOverride& rule = recipe_.rules[i].spec;
      merge(spec, rule);
      if (!rule.keep.value_or(false)) {
        decision.keep = KeepReason::kNone;
        decision.why.clear();
      } else if (decision.quantize()) {
        decision.keep = KeepReason::kSkipped;
        decision.why = rules_[i].text();
      }
    }
  }

  void apply_skips(const SourceTensor& tensor, Decision& decision) {
    for (Pattern& skip : skips_) {
      if (!skip.finds(tensor.name) || !decision.quantize()) continue;
      decision.keep = KeepReason::kSkipped;
      decision.why = skip.text();
    }
  }

  void settle_spec(const SourceTensor& tensor, const SpecOverride& spec, Decision& decision) const {
    spec.apply_to(decision.spec);
    if (!spec.solver) decision.spec.solver = best_solver(decision.spec);
    // The hqq library's default, which its loaders expect to see in the config.
    if (!spec.round_zero) decision.spec.round_zero = decision.spec.width == CodeWidth::k4;
    if (format_.adapt) format_.adapt(decision.spec, tensor.shape[1]);
    std::optional<std::string> problem = format_.why_not(decision.spec, tensor.shape[0], tensor.shape[1]);
    if (!problem || (format_.group_fallback && takes_smaller_groups(tensor, decision))) return;
    decision.keep = KeepReason::kShape;
    decision.why = std::move(*problem);
  }

  /// Halves the group size until it fits. False, with the spec as it was, when none does.
  bool takes_smaller_groups(const SourceTensor& tensor, Decision& decision) const {
    QuantSpec smaller = decision.spec;
    if (smaller.grid != FloatGrid::kNone && !smaller.has_levels()) return false;
    while (smaller.group_size > 8 && smaller.group_size % 2 == 0) {
      smaller.group_size /= 2;
      if (format_.why_not(smaller, tensor.shape[0], tensor.shape[1])) continue;
      decision.spec = smaller;
      return true;
    }
    return false;
  }

  /// "model.a.weight", "model.b.weight", ...
  [[nodiscard]] std::string example_names() const {
    constexpr std::size_t kExamples = 3;
    std::string text;
    std::size_t shown = 0;
    for (const SourceTensor& tensor : checkpoint_.tensors()) {
      if (default_reason(tensor) != KeepReason::kNone) continue;
      text += (shown == 0 ? "" : ", ") + halfquad::quoted(tensor.name);
      if (++shown == kExamples) break;
    }
    if (shown == 0 && !checkpoint_.tensors().empty()) text = halfquad::quoted(checkpoint_.tensors()[0].name);
    return text;
  }

  void require_match(const Pattern& pattern) const {
    HALFQUAD_REQUIRE(pattern.matches > 0, kUsage,
                     fmt::format("the {} {} matches none of the {} tensors; names are like {}", pattern.kind(),
                                 halfquad::quoted(pattern.text()), checkpoint_.tensors().size(), example_names()));
  }

  void require_quantizable(const Pattern& pattern) const {
    HALFQUAD_REQUIRE(pattern.quantizable > 0, kUsage,
                     fmt::format("the {} {} matches {} tensors, but none that can be quantized (a 2-D F32, F16, BF16 "
                                 "or F64 \".weight\"); names are like {}",
                                 pattern.kind(), halfquad::quoted(pattern.text()), pattern.matches, example_names()));
  }

  static void require_any_quantized(const std::vector<Decision>& decisions) {
    std::map<KeepReason, std::size_t> counts;
    std::string shape_problem;
    for (const Decision& decision : decisions) {
      if (decision.quantize()) return;
      ++counts[decision.keep];
      if (decision.keep == KeepReason::kShape && shape_problem.empty()) shape_problem = decision.why;
    }
    std::string text;
    for (const auto& [reason, count] : counts) {
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, describe(reason));
    }
    if (!shape_problem.empty()) text += fmt::format(" ({})", shape_problem);
    throw Error(ErrorCode::kUsage,
                fmt::format("nothing would be quantized: of {} tensors {}; name the weights to quantize with a rule",
                            decisions.size(), text.empty() ? "none" : text));
  }

  const Checkpoint& checkpoint_;
  const Recipe& recipe_;
  const SpecLimits& format_;
  std::string model_type_;
  std::vector<Pattern> rules_;
  std::vector<Pattern> skips_;
};

}  // namespace

SpecLimits hqq_limits() {
  return {.adapt = {}, .why_not = [](const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
            return why_not(spec, rows, cols);
          }};
}

SolverKind best_solver(const QuantSpec& spec) noexcept {
  return spec.axis == 1 && spec.channel_wise ? SolverKind::kAls : SolverKind::kHqq;
}

std::vector<std::string> pattern_marks(const Checkpoint& checkpoint, const Recipe& recipe) {
  return Decider(checkpoint, recipe, {}).marks();
}

std::vector<Decision> decide(const Checkpoint& checkpoint, const Recipe& recipe, const SpecLimits& format) {
  require_unquantized_source(checkpoint);
  return Decider(checkpoint, recipe, format).run();
}

}  // namespace halfquad
