#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/json.h"
#include "runtime/error.h"

/// Either kBadInput, or a value that survives being written and read again.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const boost::json::value value = halfquad::parse_json(text, "input");
    const std::string pretty = halfquad::pretty_json(value);
    if (halfquad::pretty_json(halfquad::parse_json(pretty, "pretty")) != pretty) std::abort();
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
