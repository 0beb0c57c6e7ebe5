#include "io/json_node.h"

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {

std::optional<JsonNode> JsonNode::find(std::string_view key) const {
  const boost::json::object* object = value_.if_object();
  const boost::json::value* found = object == nullptr ? nullptr : object->if_contains(key);
  if (found == nullptr) return std::nullopt;
  return JsonNode(*found, document_, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key));
}

JsonNode JsonNode::at(std::string_view key) const {
  std::optional<JsonNode> found = find(key);
  if (!found) fail(fmt::format("has no {}", halfquad::quoted(key)));
  return *std::move(found);
}

JsonNode JsonNode::element(std::size_t index) const {
  return {array()[index], document_, fmt::format("{}[{}]", path_, index)};
}

const boost::json::array& JsonNode::array() const {
  if (!value_.is_array()) fail("is not an array");
  return value_.get_array();
}

const boost::json::object& JsonNode::object() const {
  if (!value_.is_object()) fail("is not an object");
  return value_.get_object();
}

std::string JsonNode::text() const {
  if (!value_.is_string()) fail("is not a string");
  return std::string(value_.get_string());
}

bool JsonNode::boolean() const {
  if (!value_.is_bool()) fail("is not true or false");
  return value_.get_bool();
}

std::int64_t JsonNode::integer() const {
  boost::system::error_code failed;
  const auto found = value_.is_double() ? -1 : value_.to_number<std::int64_t>(failed);
  if (failed || found < 0) fail("is not a non-negative integer");
  return found;
}

double JsonNode::number() const {
  if (!value_.is_number()) fail("is not a number");
  return value_.to_number<double>();
}

std::optional<double> JsonNode::optional_number() const {
  if (value_.is_null()) return std::nullopt;
  return number();
}

void JsonNode::fail(std::string_view what) const {
  const std::string place = path_.empty() ? "it" : halfquad::quoted(path_);
  throw Error(ErrorCode::kBadInput, fmt::format("{} is malformed: {} {}", document_, place, what));
}

}  // namespace halfquad
