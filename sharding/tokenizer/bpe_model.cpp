#include "sharding/tokenizer/bpe_model.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <utility>

#include <fmt/format.h>

#include "runtime/text.h"
#include "sharding/tokenizer/tokenizer_json.h"
#include "sharding/tokenizer/unicode.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::string_view kAdvice =
    "halfquad tokenizes with BPE alone; make the token numbers by other means and give them as --tokens-file";
constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

std::uint64_t pair_of(std::uint32_t left, std::uint32_t right) { return std::uint64_t{left} << 32U | right; }

}  // namespace

/// The tokens of a piece while they merge.
class BpeModel::Word {
 public:
  void add(std::uint32_t id) {
    if (!symbols_.empty()) symbols_.back().next = symbols_.size();
    symbols_.push_back({id, false, symbols_.empty() ? kNone : symbols_.size() - 1, kNone});
  }

  void merge_all(const BpeModel& model) {
    for (std::size_t at = 0; at + 1 < symbols_.size(); ++at) consider(model, at);
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      if (is_current(model, best)) merge(model, best);
    }
  }

  void append_to(std::vector<std::int64_t>& ids) const {
    for (const Symbol& symbol : symbols_) {
      if (!symbol.is_gone) ids.push_back(symbol.id);
    }
  }

 private:
  struct Symbol {
    std::uint32_t id = 0;
    bool is_gone = false;
    std::size_t previous = kNone, next = kNone;
  };
  struct Candidate {
    std::uint32_t rank = 0, id = 0;
    std::size_t at = 0;
    /// For a queue whose top is the lowest rank, and of equal ones the first in the text.
    friend bool operator<(const Candidate& a, const Candidate& b) {
      return std::pair(a.rank, a.at) > std::pair(b.rank, b.at);
    }
  };

  /// Notes that the symbol and the one behind it can merge, when they can.
  void consider(const BpeModel& model, std::size_t at) {
    const std::size_t next = symbols_[at].next;
    if (next == kNone) return;
    if (const Merge* found = model.merge_of(symbols_[at].id, symbols_[next].id)) {
      candidates_.push({found->rank, found->id, at});
    }
  }

  /// Whether the candidate is still what its place would become: others may have merged since it was noted.
  [[nodiscard]] bool is_current(const BpeModel& model, const Candidate& candidate) const {
    const Symbol& left = symbols_[candidate.at];
    if (left.is_gone || left.next == kNone) return false;
    const Merge* found = model.merge_of(left.id, symbols_[left.next].id);
    return found != nullptr && found->id == candidate.id;
  }

  void merge(const BpeModel& model, const Candidate& candidate) {
    Symbol& left = symbols_[candidate.at];
    Symbol& right = symbols_[left.next];
    left.id = candidate.id;
    left.next = right.next;
    right.is_gone = true;
    if (left.next != kNone) symbols_[left.next].previous = candidate.at;
    if (left.previous != kNone) consider(model, left.previous);
    consider(model, candidate.at);
  }

  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> candidates_;
};

BpeModel::BpeModel(const json::object& tokenizer) {
  const json::object& model = bpe_model_in(tokenizer, kAdvice);
  read_options(model);
  read_vocabulary(model);
  read_merges(model);
}

void BpeModel::read_options(const json::object& model) {
  for (const std::string_view name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_in(model, name).empty()) {
      refuse_file(
          kTokenizerJson,
          fmt::format("has a BPE model with a {}; halfquad knows none; make the token numbers by other means and "
                      "give them as --tokens-file",
                      quoted(name)));
    }
  }
  const json::value* dropout = find_in(model, "dropout");
  if (dropout != nullptr && !(dropout->is_number() && dropout->to_number<double>() == 0)) {
    refuse_file(kTokenizerJson,
                "has a BPE model with a \"dropout\": it gives other tokens each time; make them by other "
                "means and give their numbers as --tokens-file");
  }
  if (find_in(model, "unk_token") != nullptr) unknown_ = text_in(model, "unk_token");
  fuses_unknown_ = flag_in(model, "fuse_unk");
  has_bytes_ = flag_in(model, "byte_fallback");
  takes_whole_ = flag_in(model, "ignore_merges");
}

void BpeModel::read_vocabulary(const json::object& model) {
  const json::object& vocabulary = need_object(model, "vocab");
  vocabulary_.reserve(vocabulary.size());
  for (const auto& [key, value] : vocabulary) {
    const std::string text(key);
    const std::int64_t id = token_id(value, kTokenizerJson, text);
    if (!std::in_range<std::uint32_t>(id)) {
      refuse_file(kTokenizerJson, fmt::format("token {} has the id {}, which is beyond 32 bits", quoted(text), id));
    }
    vocabulary_.emplace(text, static_cast<std::uint32_t>(id));
  }
}

void BpeModel::read_merges(const json::object& model) {
  std::uint32_t rank = 0;
  for (const auto& merge : bpe_merges_in(model)) {
    const auto token = [&merge, this](const std::string& text) {
      const auto found = vocabulary_.find(text);
      if (found == vocabulary_.end()) {
        refuse_file(kTokenizerJson, fmt::format("has a merge of {} and {}, but no token {}", quoted(merge.first),
                                                quoted(merge.second), quoted(text)));
      }
      return found->second;
    };
    merges_[pair_of(token(merge.first), token(merge.second))] = {rank++, token(merge.first + merge.second)};
  }
}

std::optional<std::int64_t> BpeModel::id_of(std::string_view token) const {
  const auto found = vocabulary_.find(token);
  return found == vocabulary_.end() ? std::nullopt : std::optional<std::int64_t>(found->second);
}

const BpeModel::Merge* BpeModel::merge_of(std::uint32_t left, std::uint32_t right) const {
  const auto found = merges_.find(pair_of(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::uint32_t BpeModel::unknown_id() const {
  const auto found = vocabulary_.find(*unknown_);
  if (found == vocabulary_.end()) {
    refuse_file(kTokenizerJson, fmt::format("the text has a character that is no token, and \"unk_token\" {} is none",
                                            quoted(*unknown_)));
  }
  return found->second;
}

/// False, and nothing added, unless there is a token for each byte.
bool BpeModel::add_bytes(std::string_view character, Word& word) const {
  std::vector<std::uint32_t> ids;
  for (const char byte : character) {
    const auto found = vocabulary_.find(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
    if (found == vocabulary_.end()) return false;
    ids.push_back(found->second);
  }
  for (const std::uint32_t id : ids) word.add(id);
  return true;
}

void BpeModel::encode(std::string_view piece, std::vector<std::int64_t>& ids) const {
  if (takes_whole_) {
    if (const auto id = id_of(piece)) return ids.push_back(*id);
  }
  Word word;
  std::optional<std::uint32_t> unknown;  // one that was met and may take the next ones in
  for (std::size_t at = 0, bytes = 0; at < piece.size(); at += bytes) {
    bytes = character_bytes(piece[at]);
    const std::string_view character = piece.substr(at, bytes);
    if (const auto found = vocabulary_.find(character); found != vocabulary_.end()) {
      if (unknown) word.add(*std::exchange(unknown, std::nullopt));
      word.add(found->second);
    } else if (has_bytes_ && add_bytes(character, word)) {
      continue;  // an unknown one before it comes behind it, as in the tokenizers library
    } else if (unknown_) {
      if (unknown && !fuses_unknown_) word.add(*unknown);
      unknown = unknown_id();
    }
  }
  if (unknown) word.add(*unknown);
  word.merge_all(*this);
  word.append_to(ids);
}

}  // namespace halfquad
