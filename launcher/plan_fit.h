#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/App.hpp>
#include <boost/json/object.hpp>

#include "launcher/context.h"
#include "launcher/options.h"
#include "sharding/model_facts.h"
#include "sharding/spec_chooser.h"

namespace halfquad {

/// --card, --context and --fit, as typed.
struct FitOptions {
  std::string card;
  std::string fit;
  std::int64_t context = 0;  ///< 0: as many tokens as the model was made for, at most kUsualContext.
};
void add_fit_options(CLI::App& app, FitOptions& options);

inline constexpr std::int64_t kUsualContext = 8192;
/// Assumed for the engine's own buffers and one sequence's activations.
inline constexpr std::uint64_t kEngineBytes = std::uint64_t{1} << 30;

/// A model on one card: its weights, the cache of a context, and what the engine takes beside them.
struct CardFit {
  std::uint64_t card_bytes = 0;
  std::uint64_t weights_bytes = 0;
  std::uint64_t cache_bytes = 0;
  std::int64_t context = 0;
  ModelFacts model;

  [[nodiscard]] std::uint64_t needed() const noexcept { return weights_bytes + cache_bytes + kEngineBytes; }
  [[nodiscard]] bool fits() const noexcept { return needed() <= card_bytes; }
  /// What weights may take; 0 when cache and engine alone are too much.
  [[nodiscard]] std::uint64_t room() const noexcept;
  /// Tokens of context that there is room for, at most as many as the model was made for; nothing when unknown.
  [[nodiscard]] std::optional<std::int64_t> longest_context() const;
};
[[nodiscard]] CardFit card_fit(const FitOptions& options, const ModelFacts& model, std::uint64_t weights_bytes);

/// What an output of the model in one format takes.
struct FormatSize {
  std::string format;
  SizedChoice size;  ///< With the settings given.
};

/// Outputs of other settings and formats, the latter with `chosen` in the place of the bits of `spec`, from headers
/// alone, worked out by `threads` threads.
struct Alternatives {
  std::vector<SizedChoice> choices;  ///< Of the format asked for.
  std::vector<FormatSize> formats;
};
[[nodiscard]] Alternatives alternatives_of(const Context& context, const Checkpoint& checkpoint,
                                           const SpecOptions& spec, const SpecChoice& chosen, int threads);

/// --fit: settings of the choice that fits with the least expected error. Throws kUsage when none fits, or when `spec`
/// says bits itself.
[[nodiscard]] SizedChoice fit_spec(const Context& context, const Checkpoint& checkpoint, const SpecOptions& spec,
                                   const FitOptions& options, int threads);
/// `spec` with what a choice says in it.
[[nodiscard]] SpecOptions with_choice(SpecOptions spec, const SpecChoice& choice);
/// The command that makes the output, for a shell.
[[nodiscard]] std::string quantize_command(const std::string& model, const SpecOptions& spec);

[[nodiscard]] std::string card_text(const CardFit& fit);
[[nodiscard]] std::string alternatives_text(const Alternatives& alternatives, const CardFit& fit);
[[nodiscard]] boost::json::object card_json(const CardFit& fit);
[[nodiscard]] boost::json::object alternatives_json(const Alternatives& alternatives, const CardFit& fit);

}  // namespace halfquad
