#include "launcher/plan_fit.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "launcher/help_formatter.h"
#include "launcher/job.h"
#include "launcher/output_report.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/choice_sizer.h"

namespace halfquad {
namespace {

constexpr char kUsualCard[] = "24GiB";
constexpr char kGroup[] = "Card";
constexpr std::int64_t kMostTokens = std::int64_t{1} << 32;

/// The options that `spec` was made from.
std::vector<std::string> spec_words(const SpecOptions& spec) {
  std::vector<std::string> words;
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) words.insert(words.end(), {option, value});
  };
  const auto add_number = [&](const char* option, const auto& value) {
    if (value) add(option, fmt::format("{}", *value));
  };
  const auto add_flag = [&](const char* option, bool is_set) {
    if (is_set) words.emplace_back(option);
  };
  const auto unless = [](const std::string& value, std::string_view usual) {
    return value == usual ? std::string() : value;
  };
  add("--format", spec.format);
  add("--bits", spec.bits);
  add("--group-size", spec.group_size);
  add("--type", spec.type);
  add("--mixture", spec.mixture);
  add_number("--axis", spec.axis);
  add("--solver", spec.solver);
  add_number("--iters", spec.iters);
  add_number("--starts", spec.starts);
  add("--importance", spec.importance);
  add_number("--importance-power", spec.importance_power);
  add("--round-zero", unless(spec.round_zero, "auto"));
  add_flag("--per-tensor", spec.per_tensor);
  add_flag("--symmetric", spec.symmetric);
  add("--scale-dtype", spec.scale_dtype);
  add("--nonfinite", unless(spec.nonfinite, "error"));
  add_flag("--group-fallback", spec.group_fallback);
  add("--max-shard-size", spec.max_shard_size);
  add("--target-size", spec.target_size);
  add_number("--target-bpw", spec.target_bpw);
  add("--embeddings", spec.embeddings);
  add("--recipe", spec.recipe);
  for (const std::string& rule : spec.rules) add("--rule", rule);
  for (const std::string& skip : spec.skip) add("--skip", skip);
  return words;
}

std::string output_name(const std::string& model, const SpecOptions& spec) {
  std::string name = std::filesystem::path(model).lexically_normal().filename().string();
  if (name.empty()) name = std::filesystem::path(model).lexically_normal().parent_path().filename().string();
  for (const std::string_view ending : {".gguf", ".safetensors"}) {
    if (name.ends_with(ending)) name.resize(name.size() - ending.size());
  }
  const Format& format = spec.output_format();
  std::string kind = spec.mixture;
  if (kind.empty() && format.container() == Container::kGguf) kind = spec.type;
  if (spec.target_bpw) kind = fmt::format("{}bpw", *spec.target_bpw);
  if (!spec.target_size.empty()) kind = spec.target_size;
  if (kind.empty()) kind = (spec.bits.empty() ? "4" : spec.bits) + "bit";
  if (format.container() == Container::kGguf) return fmt::format("{}-{}.gguf", name, kind);
  return fmt::format("{}-{}-{}", name, format.name(), kind);
}

Recipe recipe_of(const Context& context, const Checkpoint& checkpoint, const SpecOptions& spec) {
  Recipe recipe = spec.build_recipe(context.fs);
  spec.add_named(recipe, checkpoint);
  return recipe;
}

/// What a choice is tried on.
class Sizer {
 public:
  Sizer(const Context& context, const Checkpoint& checkpoint, const ModelOutline& outline, const SpecOptions& spec)
      : recipe_(recipe_of(context, checkpoint, spec)),
        texts_(read_texts(context.fs, checkpoint, spec.output_format())),
        sizer_({checkpoint, recipe_, spec.output_format(), spec.limits(), spec.stored(), texts_, outline}) {}
  Sizer(const Sizer&) = delete;
  Sizer& operator=(const Sizer&) = delete;

  [[nodiscard]] SizedChoice size(const SpecChoice& choice) const { return sizer_.size(choice); }

 private:
  Recipe recipe_;
  SourceTexts texts_;
  ChoiceSizer sizer_;  // of the two above
};

std::vector<SizedChoice> sized_choices(const Context& context, const Checkpoint& checkpoint,
                                       const ModelOutline& outline, SpecOptions spec, int threads) {
  spec.format = spec.output_format().name();  // which the type may have said
  spec.bits = spec.group_size = spec.type = spec.mixture = {};
  const Sizer sizer(context, checkpoint, outline, spec);
  const std::vector<SpecChoice> choices = spec_choices(spec.output_format());
  std::vector<SizedChoice> sized(choices.size());
  // GGUF's sizes are those of whole models, which may have a hundred thousand tensors.
  parallel_for(threads, static_cast<std::int64_t>(choices.size()), context.stop, [&](int /*worker*/, std::int64_t i) {
    sized[static_cast<std::size_t>(i)] = sizer.size(choices[static_cast<std::size_t>(i)]);
  });
  return sized;
}

}  // namespace

void add_fit_options(CLI::App& app, FitOptions& options) {
  app.add_option("--card", options.card, "Memory of the card that the output should fit on")
      ->default_str(kUsualCard)
      ->type_name("SIZE")
      ->group(kGroup);
  app.add_option("--fit", options.fit,
                 "Instead of --bits and --group-size: the best for a card of SIZE, which is the one with the least "
                 "expected error among those that fit with the cache")
      ->type_name("SIZE")
      ->group(kGroup);
  app.add_option("--context", options.context, "Tokens that the cache has room for")
      ->default_str("8192, or what the model was made for")
      ->check(quiet(CLI::Range(std::int64_t{1}, kMostTokens)))
      ->type_name("N")
      ->group(kGroup);
}

std::uint64_t CardFit::room() const noexcept {
  const std::uint64_t taken = cache_bytes + kEngineBytes;
  return taken < card_bytes ? card_bytes - taken : 0;
}

std::optional<std::int64_t> CardFit::longest_context() const {
  if (!model.cache || weights_bytes + kEngineBytes > card_bytes) return std::nullopt;
  const std::uint64_t left = card_bytes - weights_bytes - kEngineBytes;
  std::int64_t fits = 0, too_many = model.longest_context > 0 ? model.longest_context + 1 : kMostTokens;
  while (too_many - fits > 1) {
    const std::int64_t middle = fits + (too_many - fits) / 2;
    (model.cache->bytes(middle) <= left ? fits : too_many) = middle;
  }
  return fits;
}

CardFit card_fit(const FitOptions& options, const ModelFacts& model, std::uint64_t weights_bytes) {
  HALFQUAD_REQUIRE(options.fit.empty() || options.card.empty(), kUsage, "--fit says the card's size: leave --card out");
  CardFit fit;
  const bool fitted = !options.fit.empty();
  const std::string size = fitted ? options.fit : options.card.empty() ? kUsualCard : options.card;
  fit.card_bytes = parse_size_option(size, fitted ? "--fit" : "--card");
  fit.weights_bytes = weights_bytes;
  fit.model = model;
  fit.context = options.context;
  if (fit.context == 0) {
    fit.context = model.longest_context > 0 ? std::min(kUsualContext, model.longest_context) : kUsualContext;
  }
  if (model.cache) fit.cache_bytes = model.cache->bytes(fit.context);
  return fit;
}

Alternatives alternatives_of(const Context& context, const Checkpoint& checkpoint, const SpecOptions& spec,
                             const SpecChoice& chosen_spec, int threads) {
  Alternatives found;
  const ModelOutline outline(checkpoint, recipe_of(context, checkpoint, spec));
  found.choices = sized_choices(context, checkpoint, outline, spec, threads);
  std::vector<std::unique_ptr<Sizer>> sizers;
  for (const Format* format : formats()) {
    const bool is_gguf = format->container() == Container::kGguf;
    const bool chosen = format == &spec.output_format();
    const bool is_of_gguf = !spec.type.empty() || !spec.mixture.empty() || !chosen_spec.mixture.empty();
    if (!chosen && !is_gguf && (checkpoint.gguf() != nullptr || is_of_gguf)) continue;
    SpecOptions same = spec;
    same.format = format->name();
    if (!chosen) same.scale_dtype = {};
    found.formats.push_back({std::string(format->name()), {}});
    sizers.push_back(nullptr);
    try {
      sizers.back() = std::make_unique<Sizer>(context, checkpoint, outline, same);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUsage || chosen) throw;
      found.formats.back().size.why_not = error.what();  // settings of another format
    }
  }
  parallel_for(threads, static_cast<std::int64_t>(sizers.size()), context.stop, [&](int /*worker*/, std::int64_t i) {
    const auto& sizer = sizers[static_cast<std::size_t>(i)];
    if (sizer != nullptr) found.formats[static_cast<std::size_t>(i)].size = sizer->size(chosen_spec);
  });
  return found;
}

SizedChoice fit_spec(const Context& context, const Checkpoint& checkpoint, const SpecOptions& spec,
                     const FitOptions& options, int threads) {
  HALFQUAD_REQUIRE(spec.bits.empty() && spec.group_size.empty() && spec.type.empty() && spec.mixture.empty(), kUsage,
                   "--fit chooses the settings: leave --bits, --group-size, --type and --mixture out");
  HALFQUAD_REQUIRE(!spec.has_target(), kUsage,
                   "--fit is a target of its own: leave --target-size and --target-bpw out");
  const CardFit fit = card_fit(options, model_facts(checkpoint), 0);
  const ModelOutline outline(checkpoint, recipe_of(context, checkpoint, spec));
  const std::vector<SizedChoice> choices = sized_choices(context, checkpoint, outline, spec, threads);
  const std::optional<std::size_t> best = best_choice(choices, {.bytes = fit.room()});
  if (best) return choices[*best];
  const std::optional<std::size_t> smallest = smallest_choice(choices);
  HALFQUAD_REQUIRE(smallest.has_value(), kUsage,
                   fmt::format("{} cannot hold this model: {}", spec.output_format().name(), choices.front().why_not));
  const SizedChoice& least = choices[*smallest];
  throw Error(
      ErrorCode::kUsage,
      fmt::format("nothing fits {}: the smallest {} output ({}) takes {}, beside {} for the cache of {} tokens "
                  "and {} for the engine; try a shorter --context, another --format or a larger card",
                  human_bytes(fit.card_bytes), spec.output_format().name(), least.choice.options(),
                  human_bytes(least.bytes), human_bytes(fit.cache_bytes), fit.context, human_bytes(kEngineBytes)));
}

SpecOptions with_choice(SpecOptions spec, const SpecChoice& choice) {
  if (choice.width) spec.bits = name_of(*choice.width);
  if (choice.group_size) spec.group_size = fmt::format("{}", *choice.group_size);
  if (!choice.mixture.empty()) spec.mixture = choice.mixture;
  return spec;
}

std::string quantize_command(const std::string& model, const SpecOptions& spec) {
  std::vector<std::string> words = {"halfquad", "quantize", model, output_name(model, spec)};
  std::ranges::move(spec_words(spec), std::back_inserter(words));
  return shell_text(words);
}

}  // namespace halfquad
