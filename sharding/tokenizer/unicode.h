#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace halfquad {

/// The normal forms of Unicode.
enum class NormalForm : std::uint8_t { kC, kD, kKC, kKD };

// All texts are UTF-8; what is not is kInternal.

/// Bytes that `text` is well-formed for: all of them, or the offset of the first that is not.
[[nodiscard]] std::size_t valid_utf8_bytes(std::string_view text) noexcept;

/// The first character of a text that is not empty, and its bytes.
struct Character {
  std::int32_t code = 0;
  std::size_t bytes = 1;
};
[[nodiscard]] Character first_character(std::string_view text);

/// Bytes of the character that begins with this one.
[[nodiscard]] std::size_t character_bytes(char first) noexcept;

[[nodiscard]] std::string normal_form(std::string_view text, NormalForm form);

/// Every character by itself: a final sigma gets no form of its own.
[[nodiscard]] std::string lower_case(std::string_view text);

/// Categories Nd, Nl, No.
[[nodiscard]] bool is_numeric(std::int32_t code) noexcept;

/// Categories P*, and what else ASCII has of the kind.
[[nodiscard]] bool is_punctuation(std::int32_t code) noexcept;

/// The property White_Space.
[[nodiscard]] bool is_white_space(std::int32_t code) noexcept;

}  // namespace halfquad
