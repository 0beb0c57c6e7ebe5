#include "sharding/formats/gguf_config.h"

#include <cmath>
#include <limits>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

[[noreturn]] void refuse(std::string_view name, std::string_view reason) {
  throw Error(ErrorCode::kBadInput, fmt::format("config.json: {} {}", quoted(name), reason));
}

const json::value* find_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains({name.data(), name.size()});
  return value == nullptr || value->is_null() ? nullptr : value;
}

double number_of(const json::value& value, std::string_view name) {
  if (value.is_int64()) return static_cast<double>(value.get_int64());
  if (value.is_uint64()) return static_cast<double>(value.get_uint64());
  if (!value.is_double()) refuse(name, "is not a number");
  return value.get_double();
}

std::int64_t integer_of(const json::value& value, std::string_view name) {
  constexpr double kLimit = 9007199254740992.0;  // 2^53: beyond it a double is no longer exact
  std::int64_t whole = -1;
  if (value.is_int64()) {
    whole = value.get_int64();
  } else if (value.is_double() && value.get_double() == std::floor(value.get_double()) && value.get_double() < kLimit) {
    whole = value.get_double() < 0 ? -1 : static_cast<std::int64_t>(value.get_double());
  }
  if (whole < 0) refuse(name, "is not a whole number of at least 0");
  return whole;
}

std::string text_of(const json::value& value, std::string_view name) {
  const json::string* text = value.if_string();
  if (text == nullptr) refuse(name, "is not a string");
  return {text->data(), text->size()};
}

/// A nested rope setting of one kind of attention, when the settings are given by kind.
const json::object* rope_of(const json::object& rope, std::string_view attention) {
  const json::value* value = find_in(rope, attention);
  return value == nullptr ? nullptr : value->if_object();
}

}  // namespace

GgufConfig::GgufConfig(const json::object& config) : merged_(config) {
  if (const json::value* classes = find_in(config, "architectures"); classes != nullptr) {
    const json::array* list = classes->if_array();
    if (list != nullptr && !list->empty()) model_class_ = text_of(list->front(), "architectures");
  }
  if (const json::value* text = find_in(config, "text_config"); text != nullptr) {
    if (!text->is_object()) refuse("text_config", "is not an object");
    for (const auto& [key, value] : text->get_object()) merged_[key] = value;
  }
}

const json::value* GgufConfig::find(std::string_view name) const { return find_in(merged_, name); }

std::string GgufConfig::model_class() const { return model_class_; }

std::optional<std::int64_t> GgufConfig::integer(Names names) const {
  for (const std::string_view name : names) {
    if (const json::value* value = find(name); value != nullptr) return integer_of(*value, name);
  }
  return std::nullopt;
}

std::int64_t GgufConfig::need_integer(Names names) const {
  const std::optional<std::int64_t> value = integer(names);
  if (!value) refuse(*names.begin(), "is missing; a GGUF file cannot be written without it");
  return *value;
}

std::optional<double> GgufConfig::number(Names names) const {
  for (const std::string_view name : names) {
    if (const json::value* value = find(name); value != nullptr) return number_of(*value, name);
  }
  return std::nullopt;
}

std::optional<bool> GgufConfig::flag(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_bool()) refuse(name, "is neither true nor false");
  return value->get_bool();
}

std::optional<std::string> GgufConfig::text(Names names) const {
  for (const std::string_view name : names) {
    if (const json::value* value = find(name); value != nullptr) return text_of(*value, name);
  }
  return std::nullopt;
}

json::object GgufConfig::object(std::string_view name) const {
  const json::value* value = find(name);
  if (value == nullptr) return {};
  if (!value->is_object()) refuse(name, "is not an object");
  return value->get_object();
}

std::int64_t GgufConfig::key_value_heads() const {
  const std::optional<std::int64_t> stated = integer({"num_key_value_heads"});
  return stated ? *stated : heads();
}

std::int64_t GgufConfig::head_size() const {
  if (const std::optional<std::int64_t> stated = integer({"head_dim"})) return *stated;
  const std::int64_t count = heads();
  if (count == 0) refuse("num_attention_heads", "is 0");
  return need_integer({"hidden_size"}) / count;
}

std::int64_t GgufConfig::experts() const {
  return integer({"num_local_experts", "num_experts", "n_routed_experts"}).value_or(0);
}

std::int64_t GgufConfig::leading_dense_layers() const {
  const std::optional<std::int64_t> stated = integer({"first_k_dense_replace"});
  if (stated) return *stated;
  return experts() == 0 ? layers() : 0;
}

GgufRope::GgufRope(const GgufConfig& config) {
  settings = config.object("rope_parameters");
  if (settings.empty()) settings = config.object("rope_scaling");
  local_theta = config.number({"local_rope_theta", "rope_local_theta", "swa_rope_theta", "rope_local_base_freq"});
  if (const json::object* local = rope_of(settings, "sliding_attention"); local != nullptr) {
    if (const json::value* value = find_in(*local, "rope_theta"); value != nullptr) {
      local_theta = number_of(*value, "rope_theta");
    }
  }
  if (const json::object* full = rope_of(settings, "full_attention"); full != nullptr) {
    const json::object nested = *full;
    settings = nested;
  }
  theta = number("rope_theta");
  if (!theta) theta = config.number({"global_rope_theta", "rope_theta", "rotary_emb_base"});
  for (const std::string_view name : {"rope_type", "type"}) {
    const json::value* value = find_in(settings, name);
    if (value != nullptr && type.empty()) type = text_of(*value, name);
  }
}

std::optional<double> GgufRope::number(std::string_view name) const {
  const json::value* value = find_in(settings, name);
  if (value == nullptr) return std::nullopt;
  return number_of(*value, name);
}

std::int64_t GgufRope::original_context(const GgufConfig& config) const {
  constexpr std::string_view kName = "original_max_position_embeddings";
  if (const json::value* value = find_in(settings, kName); value != nullptr) return integer_of(*value, kName);
  return config.need_integer({kName, "max_position_embeddings"});
}

std::vector<float> GgufRope::numbers(std::string_view name) const {
  const json::value* value = find_in(settings, name);
  if (value == nullptr) return {};
  if (!value->is_array()) refuse(name, "is not a list");
  std::vector<float> out;
  for (const json::value& entry : value->get_array()) out.push_back(static_cast<float>(number_of(entry, name)));
  return out;
}

}  // namespace halfquad
