#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

namespace halfquad {

/// A value of an untrusted JSON document together with its path in it. What is not of the type asked for throws
/// kBadInput: "<document> is malformed: "totals.seconds" is not a number". The value must outlive the node.
class JsonNode {
 public:
  /// The root of `document`, a name for messages.
  JsonNode(const boost::json::value& value, std::string document) : JsonNode(value, std::move(document), "") {}

  [[nodiscard]] JsonNode at(std::string_view key) const;
  /// Nothing when there is no such key.
  [[nodiscard]] std::optional<JsonNode> find(std::string_view key) const;
  [[nodiscard]] JsonNode element(std::size_t index) const;

  [[nodiscard]] const boost::json::array& array() const;
  [[nodiscard]] const boost::json::object& object() const;
  [[nodiscard]] std::string text() const;
  [[nodiscard]] bool boolean() const;
  /// Not negative.
  [[nodiscard]] std::int64_t integer() const;
  [[nodiscard]] double number() const;
  /// Nothing for null.
  [[nodiscard]] std::optional<double> optional_number() const;

  [[noreturn]] void fail(std::string_view what) const;

 private:
  JsonNode(const boost::json::value& value, std::string document, std::string path)
      : value_(value), document_(std::move(document)), path_(std::move(path)) {}

  const boost::json::value& value_;
  std::string document_;
  std::string path_;
};

}  // namespace halfquad
