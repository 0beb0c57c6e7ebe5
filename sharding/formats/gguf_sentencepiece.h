#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace halfquad {

/// Types of a token, by the numbers that SentencePiece and GGUF share.
enum class GgufTokenType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// One token of a SentencePiece model.
struct SentencePiece {
  std::string text;  ///< UTF-8, a space as U+2581.
  float score = 0;
  GgufTokenType type = GgufTokenType::kNormal;
};

/// The tokens of a SentencePiece model file (tokenizer.model, a protocol buffer), in their order. Throws kBadInput
/// naming `file` and the byte for whatever is no such model: fields that run out of the file, groups, numbers beyond 64
/// bits, a token without text or with text that is not UTF-8, unknown types.
[[nodiscard]] std::vector<SentencePiece> parse_sentencepiece_model(std::string_view bytes, std::string_view file);

}  // namespace halfquad
