#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <boost/json/object.hpp>

namespace halfquad {

/// Byte pair encoding: a piece of text is taken character by character, then neighbours merge, those of lowest rank
/// first.
class BpeModel {
 public:
  /// `tokenizer`: a tokenizer.json. Throws kBadInput naming what is malformed or not known.
  explicit BpeModel(const boost::json::object& tokenizer);

  /// Adds the tokens of `piece`, which is UTF-8. Throws kBadInput when it needs an unknown token that is none.
  void encode(std::string_view piece, std::vector<std::int64_t>& ids) const;

  [[nodiscard]] std::optional<std::int64_t> id_of(std::string_view token) const;
  [[nodiscard]] std::int64_t size() const noexcept { return static_cast<std::int64_t>(vocabulary_.size()); }

 private:
  struct Merge {
    std::uint32_t rank = 0, id = 0;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
  };
  class Word;

  void read_options(const boost::json::object& model);
  void read_vocabulary(const boost::json::object& model);
  void read_merges(const boost::json::object& model);
  [[nodiscard]] const Merge* merge_of(std::uint32_t left, std::uint32_t right) const;
  [[nodiscard]] bool add_bytes(std::string_view character, Word& word) const;
  [[nodiscard]] std::uint32_t unknown_id() const;

  std::unordered_map<std::string, std::uint32_t, Hash, std::equal_to<>> vocabulary_;
  std::unordered_map<std::uint64_t, Merge> merges_;  ///< By both tokens.
  std::optional<std::string> unknown_;
  bool fuses_unknown_ = false;
  bool has_bytes_ = false;    ///< Characters that are no tokens become tokens of their bytes.
  bool takes_whole_ = false;  ///< A piece that is a token is not taken apart.
};

}  // namespace halfquad
