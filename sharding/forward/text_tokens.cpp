#include "sharding/forward/text_tokens.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "io/aligned_scratch.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/tokenizer/tokenizer_json.h"
#include "sharding/tokenizer/unicode.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kLongestTokenizer = 512 << 20;
/// Where a text is cut the last words are others than in the whole of it; so many tokens are dropped.
constexpr std::int64_t kUncertainTokens = 1024;
constexpr std::int64_t kBytesOfToken = 8;  // more than text takes on average
constexpr std::size_t kLongestCharacter = 4;

/// The file's first bytes without the part of a character at their end. Throws kBadInput when they are not UTF-8.
std::string read_front(ReadFile& file, const std::string& name, std::uint64_t bytes) {
  const AlignedScratch scratch(static_cast<std::size_t>(bytes));
  const std::span<std::byte> read = file.read(0, static_cast<std::size_t>(bytes), scratch.bytes());
  const std::string_view text(reinterpret_cast<const char*>(read.data()), read.size());
  const std::size_t valid = valid_utf8_bytes(text);
  const bool is_cut = bytes < file.size() && text.size() - valid < kLongestCharacter;
  HALFQUAD_REQUIRE(valid == text.size() || is_cut, kBadInput,
                   fmt::format("{} is not UTF-8 (at byte {}); convert it first, as by iconv -t UTF-8", name, valid));
  return std::string(text.substr(0, valid));
}

/// `wanted` tokens, or all of the text.
std::vector<std::int64_t> first_tokens(FileSystem& fs, const std::filesystem::path& path, const Tokenizer& tokenizer,
                                       std::int64_t wanted) {
  const std::unique_ptr<ReadFile> file = fs.open_read(path, ReadMode::kBuffered);
  const std::int64_t enough = wanted + kUncertainTokens;
  for (auto bytes = static_cast<std::uint64_t>(enough * kBytesOfToken);; bytes *= 2) {
    const bool is_whole = bytes >= file->size();
    std::vector<std::int64_t> ids =
        tokenizer.encode(read_front(*file, quoted(path.string()), is_whole ? file->size() : bytes));
    if (!is_whole && std::cmp_less(ids.size(), enough)) continue;
    if (std::cmp_greater(ids.size(), wanted)) ids.resize(static_cast<std::size_t>(wanted));
    return ids;
  }
}

}  // namespace

std::string read_tokenizer_json(FileSystem& fs, const Checkpoint& checkpoint) {
  const std::filesystem::path path = checkpoint.directory() / kTokenizerJson;
  HALFQUAD_REQUIRE(
      fs.kind(path) == FileKind::kFile, kBadInput,
      fmt::format("{} is missing, and text cannot be tokenized without it; fetch it with the model, or give "
                  "token numbers as --tokens-file",
                  quoted(path.string())));
  return read_text(fs, path, kLongestTokenizer);
}

TokenBatch text_tokens(FileSystem& fs, const TextTokens& what, const Tokenizer& tokenizer, std::int64_t vocabulary) {
  const std::vector<std::int64_t>& start = tokenizer.start();
  const auto begun = static_cast<std::int64_t>(start.size());
  const std::int64_t body = what.length - begun;
  HALFQUAD_REQUIRE(
      body > 0, kUsage,
      fmt::format("sequences of {} tokens have no room behind the {} that the tokenizer puts first; pass a "
                  "larger --length",
                  what.length, begun));
  const std::int64_t whole = what.tokens / what.length;
  const std::int64_t wanted = whole * body + std::max<std::int64_t>(0, what.tokens % what.length - begun);
  const std::vector<std::int64_t> ids = first_tokens(fs, what.file, tokenizer, wanted);
  const std::int64_t least = std::min(wanted, body);
  HALFQUAD_REQUIRE(least > 0 && std::cmp_greater_equal(ids.size(), least), kBadInput,
                   fmt::format("{} is too short: it gives {} tokens, and one sequence takes {}; give more text, or a "
                               "smaller --length",
                               quoted(what.file.string()), ids.size(), body));
  TokenBatch batch;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i % static_cast<std::size_t>(body) == 0) batch.ids.insert(batch.ids.end(), start.begin(), start.end());
    batch.ids.push_back(ids[i]);
    const bool is_last = i + 1 == ids.size();
    if (is_last || (i + 1) % static_cast<std::size_t>(body) == 0) batch.begins.push_back(batch.tokens());
  }
  const std::int64_t largest = *std::ranges::max_element(batch.ids);
  HALFQUAD_REQUIRE(largest < vocabulary, kBadInput,
                   fmt::format("tokenizer.json makes the token {} of {}, but the model's embedding has {} rows",
                               largest, quoted(what.file.string()), vocabulary));
  return batch;
}

}  // namespace halfquad
