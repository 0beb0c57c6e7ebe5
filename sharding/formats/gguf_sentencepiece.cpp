#include "sharding/formats/gguf_sentencepiece.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr std::uint64_t kPiecesField = 1;
constexpr std::uint64_t kTextField = 1;
constexpr std::uint64_t kScoreField = 2;
constexpr std::uint64_t kTypeField = 3;

enum class Wire : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

/// Walks the fields of a message.
class MessageReader {
 public:
  /// `begin` is the message's place in the file.
  MessageReader(std::string_view bytes, std::uint64_t begin, std::string_view file)
      : bytes_(bytes), begin_(begin), file_(file) {}

  struct Field {
    std::uint64_t number = 0;
    Wire wire = Wire::kVarint;
    std::uint64_t value = 0;  ///< Of numbers.
    std::string_view bytes;
    std::uint64_t at = 0;  ///< Place of `bytes` or of the field in the file.
  };

  /// Nothing at the end of the message.
  [[nodiscard]] std::optional<Field> next() {
    if (used_ == bytes_.size()) return std::nullopt;
    Field field;
    field.at = position();
    const std::uint64_t tag = varint();
    field.number = tag >> 3U;
    if (field.number == 0) refuse(field.at, "a field has the number 0");
    switch (tag & 7U) {
      case static_cast<std::uint64_t>(Wire::kVarint):
        field.value = varint();
        break;
      case static_cast<std::uint64_t>(Wire::kFixed64):
        static_cast<void>(take(sizeof(std::uint64_t)));
        break;
      case static_cast<std::uint64_t>(Wire::kFixed32):
        field.value = fixed32();
        break;
      case static_cast<std::uint64_t>(Wire::kBytes): {
        const std::uint64_t length = varint();
        field.at = position();
        field.bytes = take(length);
        break;
      }
      default:
        refuse(field.at, fmt::format("a field has the unknown wire type {}", tag & 7U));
    }
    field.wire = static_cast<Wire>(tag & 7U);
    return field;
  }

  [[noreturn]] void refuse(std::uint64_t at, std::string_view reason) const {
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: {} (at byte {}); this is no SentencePiece model", quoted(file_), reason, at));
  }

 private:
  [[nodiscard]] std::uint64_t position() const noexcept { return begin_ + used_; }

  std::string_view take(std::uint64_t count) {
    if (count > bytes_.size() - used_) {
      refuse(position(), fmt::format("a field takes {} bytes but only {} follow", count, bytes_.size() - used_));
    }
    const std::string_view taken = bytes_.substr(used_, static_cast<std::size_t>(count));
    used_ += taken.size();
    return taken;
  }

  std::uint64_t varint() {
    constexpr unsigned kBitsPerByte = 7;
    const std::uint64_t at = position();
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += kBitsPerByte) {
      const auto byte = static_cast<unsigned char>(take(1).front());
      const std::uint64_t bits = byte & 0x7FU;
      if (bits << shift >> shift != bits) refuse(at, "a number has more than 64 bits");
      value |= bits << shift;
      if ((byte & 0x80U) == 0) return value;
    }
    refuse(at, "a number has more than 64 bits");
  }

  std::uint32_t fixed32() {
    static_assert(std::endian::native == std::endian::little);
    std::uint32_t value = 0;
    std::memcpy(&value, take(sizeof(value)).data(), sizeof(value));
    return value;
  }

  std::string_view bytes_;
  std::uint64_t begin_;
  std::string_view file_;
  std::size_t used_ = 0;
};

SentencePiece read_piece(const MessageReader::Field& field, std::string_view file) {
  MessageReader reader(field.bytes, field.at, file);
  SentencePiece piece;
  while (const std::optional<MessageReader::Field> part = reader.next()) {
    if (part->number == kTextField && part->wire == Wire::kBytes) {
      piece.text = part->bytes;
    } else if (part->number == kScoreField && part->wire == Wire::kFixed32) {
      piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(part->value));
    } else if (part->number == kTypeField && part->wire == Wire::kVarint) {
      if (part->value < 1 || part->value > 6)
        reader.refuse(part->at, fmt::format("a token has the type {}", part->value));
      piece.type = static_cast<GgufTokenType>(part->value);
    } else if (part->number <= kTypeField) {
      reader.refuse(part->at, "a token has a field of the wrong kind");
    }
  }
  if (piece.text.empty()) reader.refuse(field.at, "a token has no text");
  if (!is_utf8(piece.text)) reader.refuse(field.at, fmt::format("the token {} is not UTF-8", quoted(piece.text)));
  if (!std::isfinite(piece.score)) reader.refuse(field.at, "a token has a score that is no finite number");
  return piece;
}

}  // namespace

std::vector<SentencePiece> parse_sentencepiece_model(std::string_view bytes, std::string_view file) {
  MessageReader reader(bytes, 0, file);
  std::vector<SentencePiece> pieces;
  while (const std::optional<MessageReader::Field> field = reader.next()) {
    if (field->number != kPiecesField) continue;
    if (field->wire != Wire::kBytes) reader.refuse(field->at, "the tokens are not messages");
    pieces.push_back(read_piece(*field, file));
  }
  if (pieces.empty()) reader.refuse(bytes.size(), "there are no tokens");
  return pieces;
}

}  // namespace halfquad
