#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "io/file_system.h"

namespace halfquad {

/// Sequences of tokens, back to back.
struct TokenBatch {
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> begins = {0};  ///< Of each sequence; behind the last one the number of tokens.

  [[nodiscard]] std::int64_t tokens() const noexcept { return static_cast<std::int64_t>(ids.size()); }
  [[nodiscard]] std::int64_t sequences() const noexcept { return static_cast<std::int64_t>(begins.size()) - 1; }
  [[nodiscard]] std::int64_t longest() const noexcept;
  /// Of each token in its sequence.
  [[nodiscard]] std::vector<std::int64_t> positions() const;
};

/// What random sequences are made of.
struct RandomTokens {
  std::int64_t tokens = 1024;  ///< In all; the last sequence may be shorter.
  std::int64_t length = 8;
  std::uint64_t seed = 0;
};
/// Every token of a vocabulary is as likely as any other, and a function of the seed and its place alone.
[[nodiscard]] TokenBatch random_tokens(const RandomTokens& what, std::int64_t vocabulary);

/// A text file of token numbers: one sequence a line, numbers apart by spaces or commas; empty lines count for nothing.
/// Throws kBadInput naming file and line: what is no number of the vocabulary; and a file without any.
[[nodiscard]] TokenBatch read_tokens(FileSystem& fs, const std::filesystem::path& path, std::int64_t vocabulary);

}  // namespace halfquad
