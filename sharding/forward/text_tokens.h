#pragma once

#include <cstdint>
#include <filesystem>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "sharding/forward/token_batch.h"
#include "sharding/tokenizer/tokenizer.h"

namespace halfquad {

/// A text and how much of it is wanted.
struct TextTokens {
  std::filesystem::path file;
  std::int64_t tokens = 8192;  ///< In all, start tokens included; fewer when the text ends.
  std::int64_t length = 512;   ///< Of a sequence; the last one may be shorter.
};

/// The contents of a checkpoint's tokenizer.json. Throws kBadInput when it has none.
[[nodiscard]] std::string read_tokenizer_json(FileSystem& fs, const Checkpoint& checkpoint);

/// The first tokens of a text, as the tokenizer makes them of all of it, cut into sequences that each begin with what
/// the tokenizer puts before a text. Reads no more of the file than that takes: a few bytes for each token.
/// Throws kBadInput: naming file and offset for what is not UTF-8, the file for a text of less than one sequence, a
/// token beyond `vocabulary`, and what Tokenizer::encode() does; kUsage for a length that start tokens fill.
[[nodiscard]] TokenBatch text_tokens(FileSystem& fs, const TextTokens& what, const Tokenizer& tokenizer,
                                     std::int64_t vocabulary);

}  // namespace halfquad
