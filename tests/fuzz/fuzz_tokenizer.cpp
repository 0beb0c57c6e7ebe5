#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/error.h"
#include "sharding/tokenizer/tokenizer.h"
#include "sharding/tokenizer/unicode.h"

/// A tokenizer.json, a NUL, and a text. Either kBadInput, or numbers of tokens, the same each time.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  const std::string_view rest = end == std::string_view::npos ? "a B  1\n" : input.substr(end + 1);
  const std::string_view text = rest.substr(0, halfquad::valid_utf8_bytes(rest));
  try {
    const halfquad::Tokenizer tokenizer(input.substr(0, end));
    const std::vector<std::int64_t> ids = tokenizer.encode(text);
    for (const std::int64_t id : ids) {
      if (id < 0) std::abort();
    }
    if (ids != tokenizer.encode(text)) std::abort();
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
