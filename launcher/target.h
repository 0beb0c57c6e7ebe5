#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "launcher/context.h"
#include "launcher/options.h"
#include "sharding/choice_sizer.h"
#include "sharding/spec_chooser.h"

namespace halfquad {

/// Layers of which some have the wider codes.
struct MixedRole {
  LayerRole role = LayerRole::kMlpUp;
  std::size_t blocks = 0;  ///< That have such layers.
  std::size_t wider = 0;   ///< Of these.
};

/// What --target-size or --target-bpw came to.
struct ChosenSpec {
  SizeBudget budget;
  SizedChoice sized;
  std::vector<MixedRole> roles;  ///< When two widths are mixed.

  /// "--target-bpw 3.5"
  [[nodiscard]] std::string target_text() const;
  /// "3 bit, groups of 64; 4 bit in attention outputs, MLP outputs of 12 of 30 blocks"
  [[nodiscard]] std::string settings_text() const;
  /// The settings, and what they come to beside the target.
  [[nodiscard]] std::string text() const;
  [[nodiscard]] boost::json::object json() const;
};

/// The settings with the least expected error within the budget of `spec`, among those that leave the fewest layers
/// unquantized for their shape: from headers alone, by `threads` threads, so that all ranks choose the same. Throws
/// kUsage when nothing is within the budget, naming the smallest that can be had, and for options that say bits too.
[[nodiscard]] ChosenSpec choose_spec(const Context& context, const ChoiceInputs& inputs, const SpecOptions& spec,
                                     int threads);

}  // namespace halfquad
