#include <algorithm>
#include <array>
#include <cctype>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/dtype.h"
#include "sharding/rules.h"

namespace halfquad {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

/// Dotted components of a module path, in lower case.
class ModulePath {
 public:
  explicit ModulePath(std::string_view path) {
    std::string component;
    for (const char c : path) {
      if (c == '.') {
        components_.push_back(std::move(component));
        component.clear();
      } else {
        component.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
      }
    }
    components_.push_back(std::move(component));
  }

  [[nodiscard]] const std::string& last() const { return components_.back(); }

  template <class Test>
  [[nodiscard]] bool any(Test test) const {
    return std::ranges::any_of(components_, test);
  }
  [[nodiscard]] bool any_contains(std::span<const std::string_view> parts) const {
    return any([&](std::string_view component) {
      return std::ranges::any_of(parts, [&](std::string_view part) { return component.find(part) != component.npos; });
    });
  }
  [[nodiscard]] bool any_equals(std::span<const std::string_view> names) const {
    return any([&](std::string_view component) { return std::ranges::find(names, component) != names.end(); });
  }

 private:
  std::vector<std::string> components_;
};

constexpr std::array<std::string_view, 8> kTowerParts = {"vision",       "visual",        "audio",       "multi_modal",
                                                         "mm_projector", "image_newline", "patch_embed", "img_"};
constexpr std::array<std::string_view, 1> kRouterParts = {"router"};
constexpr std::array<std::string_view, 2> kRouterNames = {"gate", "shared_expert_gate"};
constexpr std::array<std::string_view, 2> kHeadParts = {"lm_head", "embed_out"};
constexpr std::array<std::string_view, 6> kHeadNames = {"score", "classifier", "qa_outputs", "cls", "head", "heads"};
constexpr std::array<std::string_view, 5> kEmbeddingNames = {"wte", "wpe", "shared", "tok_embeddings",
                                                             "relative_attention_bias"};
constexpr std::array<std::string_view, 1> kConvolutionParts = {"conv"};
constexpr std::array<std::string_view, 1> kNormParts = {"norm"};

bool is_embedding(const ModulePath& path) {
  return path.last().find("embed") != std::string::npos ||
         std::ranges::find(kEmbeddingNames, path.last()) != kEmbeddingNames.end();
}

bool is_norm(const ModulePath& path) {
  // ln_1, ln_f (GPT-2), ln1 (RWKV), ln.
  const std::string& last = path.last();
  const bool ln = last.starts_with("ln") && (last.size() == 2 || last[2] == '_' || (last[2] >= '0' && last[2] <= '9'));
  return ln || path.any_contains(kNormParts);
}

/// These model types keep their linear layers transposed, [in, out], in a class of their own.
bool is_transposed_conv1d(const ModulePath& path, std::string_view model_type) {
  constexpr std::array<std::string_view, 4> kTypes = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"};
  constexpr std::array<std::string_view, 4> kNames = {"c_attn", "c_proj", "c_fc", "q_attn"};
  return std::ranges::find(kTypes, model_type) != kTypes.end() &&
         std::ranges::find(kNames, path.last()) != kNames.end();
}

bool is_in_numbered_block(const ModulePath& path) {
  return path.any([](std::string_view component) {
    return !component.empty() && std::ranges::all_of(component, [](char c) { return c >= '0' && c <= '9'; });
  });
}

KeepReason reason_from_shape(const SourceTensor& tensor) {
  if (tensor.shape.size() == 2) return KeepReason::kNone;
  // 3-D without "conv" in the name are fused experts; 4-D and 5-D are patch and image convolutions.
  return tensor.shape.size() > 3 ? KeepReason::kConvolution : KeepReason::kNotAWeight;
}

}  // namespace

std::string_view module_of(std::string_view tensor_name) noexcept {
  if (tensor_name.ends_with(kWeightSuffix)) tensor_name.remove_suffix(kWeightSuffix.size());
  return tensor_name;
}

KeepReason default_keep_reason(const SourceTensor& tensor, std::string_view model_type) {
  const ModulePath path(module_of(tensor.name));
  if (path.any_contains(kTowerParts)) return KeepReason::kVision;
  if (!tensor.name.ends_with(kWeightSuffix)) return KeepReason::kNotAWeight;
  // A router may hold a "classifier" and an output head may be called "embed_out": the order decides.
  if (path.any_contains(kRouterParts) || path.any_equals(kRouterNames)) return KeepReason::kRouter;
  if (path.any_contains(kHeadParts) || path.any_equals(kHeadNames)) return KeepReason::kHead;
  if (is_norm(path)) return KeepReason::kNorm;
  if (is_embedding(path)) return KeepReason::kEmbedding;
  if (path.any_contains(kConvolutionParts) || is_transposed_conv1d(path, model_type)) return KeepReason::kConvolution;
  if (const KeepReason reason = reason_from_shape(tensor); reason != KeepReason::kNone) return reason;
  if (!is_float_source(tensor.dtype)) return KeepReason::kDtype;
  return is_in_numbered_block(path) ? KeepReason::kNone : KeepReason::kOutsideBlocks;
}

std::string_view describe(KeepReason reason) noexcept {
  switch (reason) {
    case KeepReason::kNone:
      return "quantized";
    case KeepReason::kNotAWeight:
      return "bias, buffer or not 2-D";
    case KeepReason::kOutsideBlocks:
      return "outside the numbered blocks";
    case KeepReason::kEmbedding:
      return "embedding";
    case KeepReason::kHead:
      return "output head";
    case KeepReason::kNorm:
      return "norm";
    case KeepReason::kRouter:
      return "router";
    case KeepReason::kConvolution:
      return "convolution";
    case KeepReason::kVision:
      return "vision or audio tower";
    case KeepReason::kDtype:
      return "dtype that cannot be decoded";
    case KeepReason::kSkipped:
      return "skipped by the recipe";
    case KeepReason::kShape:
      return "shape that does not fit the spec";
    case KeepReason::kFormat:
      return "for the format";
    case KeepReason::kNonfinite:
      return "holds NaN or infinity";
  }
  return "unknown";
}

}  // namespace halfquad
