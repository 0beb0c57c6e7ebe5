#include "sharding/forward/token_batch.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kLongestFile = 64 << 20;
constexpr std::string_view kBetween = " \t\r,";

/// SplitMix64's output function: 64 well mixed bits for each state.
std::uint64_t mixed(std::uint64_t state) {
  state = (state ^ (state >> 30U)) * 0xBF58476D1CE4E5B9U;
  state = (state ^ (state >> 27U)) * 0x94D049BB133111EBU;
  return state ^ (state >> 31U);
}

void read_line(std::string_view line, const std::string& where, std::int64_t vocabulary, TokenBatch& batch) {
  while (true) {
    const std::size_t begin = line.find_first_not_of(kBetween);
    if (begin == std::string_view::npos) break;
    line.remove_prefix(begin);
    const std::string_view word = line.substr(0, line.find_first_of(kBetween));
    std::int64_t id = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    HALFQUAD_REQUIRE(error == std::errc{} && end == word.data() + word.size() && id >= 0 && id < vocabulary, kBadInput,
                     fmt::format("{}: {} is not the number of a token, 0 to {}", where, quoted(word), vocabulary - 1));
    batch.ids.push_back(id);
    line.remove_prefix(word.size());
  }
  if (batch.tokens() > batch.begins.back()) batch.begins.push_back(batch.tokens());
}

}  // namespace

std::int64_t TokenBatch::longest() const noexcept {
  std::int64_t most = 0;
  for (std::size_t i = 1; i < begins.size(); ++i) most = std::max(most, begins[i] - begins[i - 1]);
  return most;
}

std::vector<std::int64_t> TokenBatch::positions() const {
  std::vector<std::int64_t> all;
  for (std::size_t i = 1; i < begins.size(); ++i) {
    for (std::int64_t at = begins[i - 1]; at < begins[i]; ++at) all.push_back(at - begins[i - 1]);
  }
  return all;
}

TokenBatch random_tokens(const RandomTokens& what, std::int64_t vocabulary) {
  constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15U;
  const std::uint64_t start = mixed(what.seed + kGamma);
  TokenBatch batch;
  for (std::int64_t i = 0; i < what.tokens; ++i) {
    const std::uint64_t bits = mixed(start + (static_cast<std::uint64_t>(i) + 1) * kGamma);
    // The upper 32 bits as a fraction: every token of a vocabulary below 2^31 within 2^-32 of equally likely.
    batch.ids.push_back(static_cast<std::int64_t>(((bits >> 32U) * static_cast<std::uint64_t>(vocabulary)) >> 32U));
    if ((i + 1) % what.length == 0 || i + 1 == what.tokens) batch.begins.push_back(i + 1);
  }
  return batch;
}

TokenBatch read_tokens(FileSystem& fs, const std::filesystem::path& path, std::int64_t vocabulary) {
  const std::string text = read_text(fs, path, kLongestFile);
  TokenBatch batch;
  std::size_t line = 1;
  for (std::size_t begin = 0; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    read_line(std::string_view(text).substr(begin, end - begin), fmt::format("{} line {}", quoted(path.string()), line),
              vocabulary, batch);
    begin = end + 1;
  }
  HALFQUAD_REQUIRE(batch.tokens() > 0, kBadInput, fmt::format("{} holds no tokens", quoted(path.string())));
  return batch;
}

}  // namespace halfquad
