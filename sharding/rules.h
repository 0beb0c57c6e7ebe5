#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "kernels/level_grid.h"
#include "kernels/quant_spec.h"

namespace halfquad {

/// The part of a QuantSpec that a recipe or a rule sets; what is empty stays as it was.
struct SpecOverride {
  std::optional<CodeWidth> width;
  std::optional<std::int64_t> group_size;  ///< 0: whole rows (axis 1) or columns (axis 0).
  std::optional<int> axis;
  std::optional<SolverKind> solver;
  std::optional<int> iters;  ///< Steps of hqq, rounds of als.
  std::optional<int> starts;
  std::optional<Importance> importance;
  std::optional<double> importance_power;
  std::optional<bool> round_zero;
  std::optional<bool> channel_wise;
  std::optional<ZeroKind> zeros;
  std::optional<bool> super_blocks;
  std::optional<FloatGrid> grid;
  std::optional<bool> keep;  ///< true: leave the tensor unquantized.

  void apply_to(QuantSpec& spec) const;
};

/// Tensors whose name `pattern` finds (anywhere in the name, Perl syntax) get `spec`. Later rules override earlier
/// ones.
struct Rule {
  std::string pattern;
  SpecOverride spec;
};

/// Which tensor gets which spec, as the user said it.
struct Recipe {
  SpecOverride defaults;
  /// By the exact name of a tensor, which is quantized then unless a rule says otherwise; rules go over it.
  std::map<std::string, SpecOverride, std::less<>> tensors;
  std::vector<Rule> rules;
  std::vector<std::string> skip;  ///< Patterns of tensors to leave unquantized; wins over every rule.
};

/// "REGEX=bits:3,group-size:32,axis:1,solver:rtn,iters:10,round-zero:on,per-tensor:on,keep:on"; split at the last '='.
/// Throws kUsage naming what is wrong.
[[nodiscard]] Rule parse_rule(std::string_view text);

/// A recipe file: {"bits":4,"group_size":64,...,"rules":[{"match":"REGEX","bits":3},...],"skip":["REGEX",...]}.
/// Unknown keys are errors (kBadInput, naming `file`).
[[nodiscard]] Recipe parse_recipe(std::string_view json, std::string_view file);

/// Why a tensor is copied instead of quantized; the summary counts by it.
enum class KeepReason : std::uint8_t {
  kNone,           ///< It is quantized.
  kNotAWeight,     ///< A bias, a buffer, or not 2-D.
  kOutsideBlocks,  ///< Not inside a numbered block: poolers, heads, projections between towers.
  kEmbedding,
  kHead,  ///< lm_head and other output heads.
  kNorm,
  kRouter,       ///< Mixture-of-experts gates.
  kConvolution,  ///< Includes GPT-2's transposed Conv1D.
  kVision,       ///< Vision and audio towers.
  kDtype,        ///< Not F32, F16, BF16 or F64.
  kSkipped,      ///< A skip pattern or a keep rule.
  kShape,        ///< The spec does not fit the shape; `why` says how.
  kFormat,       ///< The output's format has no place for it, or another one; `why` says which.
  kNonfinite,    ///< Holds NaN or infinity and the policy keeps such tensors.
};
[[nodiscard]] std::string_view describe(KeepReason reason) noexcept;  ///< "embedding", "output head", ...

/// What happens to one source tensor.
struct Decision {
  std::size_t source = 0;  ///< Index into Checkpoint::tensors().
  KeepReason keep = KeepReason::kNone;
  QuantSpec spec;   ///< Meaningful when keep is kNone.
  std::string why;  ///< For kSkipped the pattern, for kShape the sentence.
  /// Where the format keeps no tensor scale for it, which is 1 then, though its grid has one: why, of all such tensors
  /// alike.
  std::string unscaled = {};
  /// Importance::kFile: the file says nothing of the layer, whose own weights tell instead.
  bool unmeasured = false;
  bool given = false;                 ///< Quantized already: the tensor holds coded elements (coded_elements.h).
  float tensor_scale = 1;             ///< Of a given tensor that has one.
  std::optional<Levels> levels = {};  ///< Of a given tensor that has some of its own.

  [[nodiscard]] bool quantize() const noexcept { return keep == KeepReason::kNone; }
};

/// What the format of an output takes.
struct SpecLimits {
  /// Sets what leaves no choice in a layer with rows of so many weights; may be empty.
  std::function<void(QuantSpec&, std::int64_t)> adapt;
  /// Why a [rows, cols] layer cannot be kept with a spec; nothing when it can.
  std::function<std::optional<std::string>(const QuantSpec&, std::int64_t, std::int64_t)> why_not;
  bool group_fallback = false;  ///< Take a smaller group size where that helps.
};
[[nodiscard]] SpecLimits hqq_limits();

/// Default treatment from name, shape, dtype and model type alone (kNone: a linear layer inside a block).
[[nodiscard]] KeepReason default_keep_reason(const SourceTensor& tensor, std::string_view model_type);

/// One decision per tensor, in the checkpoint's order. A rule that names a tensor kept by default (an embedding,
/// lm_head) quantizes it, if it is a 2-D float weight. The solver defaults to als for groups along
/// rows (axis 1), to hqq elsewhere; round_zero to on for 4 bits as in the hqq library.
/// Throws kUsage for a bad pattern, a rule or skip pattern that matches nothing, or when nothing at all is quantized.
[[nodiscard]] std::vector<Decision> decide(const Checkpoint& checkpoint, const Recipe& recipe,
                                           const SpecLimits& format = hqq_limits());

/// Module path of a weight: the name without a final ".weight".
[[nodiscard]] std::string_view module_of(std::string_view tensor_name) noexcept;

}  // namespace halfquad
