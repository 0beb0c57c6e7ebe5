#include "sharding/source_config.h"

#include <algorithm>
#include <stdexcept>

#include <boost/json.hpp>
#include <boost/regex.hpp>
#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using Object = boost::json::object;
using Value = boost::json::value;

/// The value of a key; nothing when it is missing or null.
const Value* find(const Object& object, std::string_view key) {
  const Value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

[[noreturn]] void refuse_value(std::string_view key, std::string_view wanted, const Value& value) {
  throw Error(ErrorCode::kBadInput, fmt::format("config.json: {} must be {}, not {}", halfquad::quoted(key), wanted,
                                                halfquad::quoted(boost::json::serialize(value))));
}

std::optional<std::string> text_of(const Object& object, std::string_view key) {
  const Value* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse_value(key, "a string", *value);
  return std::string(value->get_string());
}

std::int64_t positive(const Value& value, std::string_view key) {
  if (!value.is_int64() || value.get_int64() <= 0) refuse_value(key, "a positive whole number", value);
  return value.get_int64();
}

std::optional<std::int64_t> positive_of(const Object& object, std::string_view key) {
  const Value* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  return positive(*value, key);
}

const Object* object_of(const Object& object, std::string_view key) {
  const Value* value = find(object, key);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) refuse_value(key, "an object", *value);
  return &value->get_object();
}

std::optional<std::array<std::int64_t, 2>> block_of(const Object& object, std::string_view key) {
  const Value* value = find(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array() || value->get_array().size() != 2) refuse_value(key, "two whole numbers", *value);
  return {{positive(value->get_array()[0], key), positive(value->get_array()[1], key)}};
}

const Object* quantization_of(const Object& config) {
  for (const std::string_view key : {"quantization_config", "compression_config"}) {
    if (const Object* found = object_of(config, key)) return found;
  }
  const Value* text = find(config, "text_config");
  return text != nullptr && text->is_object() ? quantization_of(text->get_object()) : nullptr;
}

[[noreturn]] void refuse_method(std::string_view what, std::string_view name) {
  throw Error(
      ErrorCode::kBadInput,
      fmt::format("config.json says this checkpoint is already quantized ({} {}), which cannot be decoded; give "
                  "the original checkpoint, or one in FP8, MXFP4 or compressed-tensors' integers",
                  what, halfquad::quoted(name)));
}

void require_known_format(const Object& object) {
  constexpr std::array<std::string_view, 6> kKnown = {"pack-quantized",  "float-quantized", "int-quantized",
                                                      "naive-quantized", "mixed-precision", "dense"};
  const std::string format = text_of(object, "format").value_or("dense");
  if (std::ranges::find(kKnown, format) == kKnown.end()) refuse_method("format", format);
}

WeightScheme scheme_from(const Object& group, const Object& weights) {
  WeightScheme scheme;
  const Value* targets = find(group, "targets");
  if (targets == nullptr || !targets->is_array()) {
    refuse_value("targets", "a list of modules", targets == nullptr ? Value() : *targets);
  }
  for (const Value& target : targets->get_array()) {
    if (!target.is_string()) refuse_value("targets", "a list of modules", target);
    scheme.targets.emplace_back(target.get_string());
  }
  const std::int64_t bits = positive_of(weights, "num_bits").value_or(8);
  const std::string type = text_of(weights, "type").value_or("int");
  if (bits < 2 || bits > 8) refuse_value("num_bits", "2 to 8", Value(bits));
  if (type != "int" && (type != "float" || bits != 8))
    refuse_method("weights of type", fmt::format("{}{}", type, bits));
  scheme.bits = static_cast<int>(bits);
  scheme.is_float = type == "float";
  if (const Value* symmetric = find(weights, "symmetric")) {
    if (!symmetric->is_bool()) refuse_value("symmetric", "true or false", *symmetric);
    scheme.symmetric = symmetric->get_bool();
  }
  const Value* group_size = find(weights, "group_size");
  const bool whole_rows = group_size == nullptr || (group_size->is_int64() && group_size->get_int64() == -1);
  scheme.group_size = whole_rows ? 0 : positive(*group_size, "group_size");
  scheme.block = block_of(weights, "block_structure");
  return scheme;
}

void read_compressed_tensors(const Object& quantization, SourceConfig& config) {
  require_known_format(quantization);
  if (const Object* sparsity = object_of(quantization, "sparsity_config")) {
    const std::string format = text_of(*sparsity, "format").value_or("dense");
    if (format != "dense") refuse_method("sparsity format", format);
  }
  const Object* groups = object_of(quantization, "config_groups");
  if (groups == nullptr) return;
  for (const auto& [name, value] : *groups) {
    if (!value.is_object()) refuse_value(name, "an object", value);
    const Object& group = value.get_object();
    require_known_format(group);
    if (const Object* weights = object_of(group, "weights")) config.schemes.push_back(scheme_from(group, *weights));
  }
}

void read_quantization(const Object& quantization, SourceConfig& config) {
  const std::string method = text_of(quantization, "quant_method").value_or("unnamed");
  if (method == "fp8" || method == "fbgemm_fp8") {
    config.method = SourceMethod::kFp8;
    config.block = block_of(quantization, "weight_block_size");
  } else if (method == "mxfp4") {
    config.method = SourceMethod::kMxfp4;
  } else if (method == "compressed-tensors") {
    config.method = SourceMethod::kCompressedTensors;
    read_compressed_tensors(quantization, config);
  } else {
    refuse_method("quant_method", method);
  }
}

// What configurations say about the model itself comes in many forms: one that is not understood is as good as missing.
std::string model_text(const Object& model, std::string_view key) {
  const Value* value = find(model, key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

std::optional<std::int64_t> model_size(const Object& model, std::string_view key) {
  const Value* value = find(model, key);
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  if (value == nullptr || !value->is_int64() || value->get_int64() <= 0 || value->get_int64() > kMost) {
    return std::nullopt;
  }
  return value->get_int64();
}

DType plain_dtype_of(const Object& model) {
  for (const std::string_view key : {"dtype", "torch_dtype"}) {
    const std::string name = model_text(model, key);
    if (name == "float16") return DType::kF16;
    if (name == "float32") return DType::kF32;
  }
  return DType::kBF16;
}

std::optional<std::int64_t> first_size(const Object& model, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    if (const std::optional<std::int64_t> size = model_size(model, key)) return size;
  }
  return std::nullopt;
}

bool names_module(const std::string& target, const std::string& module) {
  if (!target.starts_with("re:")) return target == module;
  try {
    // From the module's beginning on, but not necessarily to its end: as compressed-tensors matches.
    return boost::regex_search(module, boost::regex(target.substr(3)), boost::match_continuous);
  } catch (const std::runtime_error&) {
    throw Error(ErrorCode::kBadInput,
                fmt::format("config.json: the target {} is not a usable pattern", halfquad::quoted(target)));
  }
}

/// Classes of torch begin with a capital letter, modules do not.
bool names_class(const std::string& target) { return !target.empty() && target[0] >= 'A' && target[0] <= 'Z'; }

}  // namespace

const WeightScheme& SourceConfig::scheme_of(std::string_view module) const {
  const std::string name(module);
  for (const WeightScheme& scheme : schemes) {
    if (std::ranges::any_of(scheme.targets, [&](const auto& target) { return names_module(target, name); })) {
      return scheme;
    }
  }
  for (const WeightScheme& scheme : schemes) {
    if (std::ranges::any_of(scheme.targets, names_class)) return scheme;
  }
  throw Error(ErrorCode::kBadInput,
              fmt::format("config.json: no config group says how {} is quantized", halfquad::quoted(name)));
}

SourceConfig parse_source_config(const Object& config) {
  SourceConfig out;
  const Value* text = find(config, "text_config");
  const Object& model = text != nullptr && text->is_object() ? text->get_object() : config;
  out.model_type = model_text(model, "model_type");
  if (out.model_type.empty()) out.model_type = model_text(config, "model_type");
  const DType outer = plain_dtype_of(config);
  out.plain_dtype = outer == DType::kBF16 ? plain_dtype_of(model) : outer;
  out.hidden_size = model_size(model, "hidden_size");
  out.expert_width = first_size(model, {"moe_intermediate_size", "intermediate_size"});
  out.expert_count = first_size(model, {"num_experts", "num_local_experts", "n_routed_experts"});
  if (const Object* quantization = quantization_of(config)) read_quantization(*quantization, out);
  return out;
}

}  // namespace halfquad
