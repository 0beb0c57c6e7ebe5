#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sharding/tokenizer/bpe_model.h"
#include "sharding/tokenizer/normalizer.h"
#include "sharding/tokenizer/pre_tokenizer.h"
#include "sharding/tokenizer/tokenizer_json.h"

namespace halfquad {

/// A part of a text: an added token, or text for the model.
struct AddedPart {
  std::optional<std::int64_t> id;
  TextPiece piece;
};

/// Finds the tokens of a set in a text: the leftmost, of those the longest.
class AddedMatcher {
 public:
  AddedMatcher() : nodes_(1) {}

  /// Throws kBadInput for a text that is there already.
  void add(const AddedToken& token, std::string_view text);
  /// `piece` in parts without empty ones.
  void split(TextPiece piece, std::vector<AddedPart>& parts) const;

 private:
  struct Found {
    const AddedToken* token = nullptr;
    std::size_t begin = 0, end = 0;
  };
  [[nodiscard]] std::optional<Found> find(std::string_view text, std::size_t from) const;
  [[nodiscard]] std::optional<Found> longest_at(std::string_view text, std::size_t begin) const;

  struct Node {
    std::unordered_map<char, std::size_t> next;
    std::optional<AddedToken> token;
  };
  std::vector<Node> nodes_;  ///< A tree; the first is its root.
  std::bitset<256> first_bytes_;
};

/// The tokens that a tokenizer.json adds to its model's own. They are found before the model sees a text: first those
/// that are not normalized in the text as it is, then the others in the normalized parts between them.
class AddedVocabulary {
 public:
  AddedVocabulary(const boost::json::object& tokenizer, const BpeModel& model,
                  const std::vector<NormalizerStep>& normalizer);

  /// Parts in order; those that are text are normalized.
  [[nodiscard]] std::vector<AddedPart> split(std::string_view text,
                                             const std::vector<NormalizerStep>& normalizer) const;

 private:
  AddedMatcher plain_, normalized_;
};

}  // namespace halfquad
