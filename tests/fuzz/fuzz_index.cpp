#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/safetensors_index.h"
#include "runtime/error.h"

/// Either kBadInput, or names of files that cannot leave their directory.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const auto& [tensor, file] : halfquad::parse_safetensors_index(text, "input")) {
      if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos) std::abort();
    }
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
