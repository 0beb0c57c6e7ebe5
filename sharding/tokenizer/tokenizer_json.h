#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

namespace halfquad {

// What all who read a tokenizer's files share. Everything here throws kBadInput naming the file.

inline constexpr std::string_view kTokenizerJson = "tokenizer.json";

[[noreturn]] void refuse_file(std::string_view file, const std::string& reason);

/// `text` as JSON that must be an object.
[[nodiscard]] boost::json::object parse_tokenizer_file(std::string_view text, std::string_view file);

/// The string that `value` must be; `what` names it in the error.
[[nodiscard]] std::string text_of(const boost::json::value& value, std::string_view file, std::string_view what);

/// A token's number, at least 0.
[[nodiscard]] std::int64_t token_id(const boost::json::value& value, std::string_view file, std::string_view token);

/// `otherwise` where there is no such flag.
[[nodiscard]] bool flag_in(const boost::json::object& object, std::string_view name, bool otherwise = false);

/// Null for what is absent or null.
[[nodiscard]] const boost::json::value* find_in(const boost::json::object& object, std::string_view name);

/// Empty where there is no such text.
[[nodiscard]] std::string text_in(const boost::json::object& object, std::string_view name);

/// The object of this name in tokenizer.json or a part of it.
[[nodiscard]] const boost::json::object& need_object(const boost::json::object& object, std::string_view name);

/// The model of a tokenizer.json, which must be BPE. `otherwise`: what the error says about others, as in "only BPE can
/// be written as GGUF".
[[nodiscard]] const boost::json::object& bpe_model_in(const boost::json::object& tokenizer, std::string_view otherwise);

/// Both halves of every merge of a BPE model, in order of rank.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> bpe_merges_in(const boost::json::object& model);

/// A token that tokenizer.json adds to the model's own.
struct AddedToken {
  std::int64_t id = 0;
  std::string text;
  bool special = false;
  bool single_word = false;
  bool strips_left = false, strips_right = false;  ///< Takes the white space beside it along.
  bool normalized = false;                         ///< Looked for in normalized text.
};
/// In the order of the file.
[[nodiscard]] std::vector<AddedToken> added_tokens_in(const boost::json::object& tokenizer);

}  // namespace halfquad
