#include "sharding/tokenizer/unicode.h"

#include <array>
#include <cstdlib>
#include <memory>
#include <utf8proc.h>

#include <fmt/format.h>

#include "runtime/check.h"

namespace halfquad {
namespace {

/// Bytes of the well-formed character at the front; 0 when there is none.
std::size_t decode(std::string_view text, utf8proc_int32_t& code) noexcept {
  constexpr std::size_t kLongest = 4;
  const std::size_t bytes = text.size() < kLongest ? text.size() : kLongest;
  const utf8proc_ssize_t used = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                                 static_cast<utf8proc_ssize_t>(bytes), &code);
  return used <= 0 ? 0 : static_cast<std::size_t>(used);
}

int options_of(NormalForm form) noexcept {
  switch (form) {
    case NormalForm::kC:
      return UTF8PROC_COMPOSE;
    case NormalForm::kD:
      return UTF8PROC_DECOMPOSE;
    case NormalForm::kKC:
      return UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
    case NormalForm::kKD:
      return UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  }
  return 0;
}

struct Free {
  void operator()(utf8proc_uint8_t* memory) const noexcept { std::free(memory); }
};

}  // namespace

std::size_t valid_utf8_bytes(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    utf8proc_int32_t code = 0;
    const std::size_t used = decode(text.substr(at), code);
    if (used == 0) return at;
    at += used;
  }
  return at;
}

Character first_character(std::string_view text) {
  Character out;
  out.bytes = decode(text, out.code);
  HALFQUAD_REQUIRE(out.bytes > 0, kInternal, "a text to be tokenized is not UTF-8");
  return out;
}

std::size_t character_bytes(char first) noexcept {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80U ? 1 : byte < 0xE0U ? 2 : byte < 0xF0U ? 3 : 4;
}

std::string normal_form(std::string_view text, NormalForm form) {
  if (text.empty()) return {};
  utf8proc_uint8_t* made = nullptr;
  const utf8proc_ssize_t bytes =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &made, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | options_of(form)));
  const std::unique_ptr<utf8proc_uint8_t, Free> owner(made);
  HALFQUAD_REQUIRE(bytes != UTF8PROC_ERROR_NOMEM, kOutOfMemory, "no memory to normalize a text");
  HALFQUAD_REQUIRE(bytes >= 0, kInternal, fmt::format("utf8proc: {}", utf8proc_errmsg(bytes)));
  return {reinterpret_cast<const char*>(made), static_cast<std::size_t>(bytes)};
}

std::string lower_case(std::string_view text) {
  constexpr std::int32_t kDottedCapitalI = 0x130;  // the only one with a small form of two characters
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_character(text);
    text.remove_prefix(character.bytes);
    if (character.code == kDottedCapitalI) {
      out += "i\xCC\x87";
      continue;
    }
    std::array<utf8proc_uint8_t, 4> bytes{};
    const utf8proc_ssize_t used = utf8proc_encode_char(utf8proc_tolower(character.code), bytes.data());
    out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(used));
  }
  return out;
}

bool is_numeric(std::int32_t code) noexcept {
  const utf8proc_category_t category = utf8proc_category(code);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(std::int32_t code) noexcept {
  const bool ascii = (code >= '!' && code <= '/') || (code >= ':' && code <= '@') || (code >= '[' && code <= '`') ||
                     (code >= '{' && code <= '~');
  const utf8proc_category_t category = utf8proc_category(code);
  return ascii || (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO);
}

bool is_white_space(std::int32_t code) noexcept {
  return (code >= 0x9 && code <= 0xD) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

}  // namespace halfquad
