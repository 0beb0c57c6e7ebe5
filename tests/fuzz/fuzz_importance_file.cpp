#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "io/importance_file.h"
#include "runtime/error.h"
#include "tests/fuzz/input_file.h"

/// Either kBadInput, or entries whose values lie in the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto file = halfquad::ImportanceFile::parse(
        std::make_unique<halfquad::fuzz::InputFile>(std::span<const std::uint8_t>(data, size)), "input");
    if (file.entries().empty() || file.digest().size() != 16) std::abort();
    for (const halfquad::ImportanceEntry& entry : file.entries()) {
      if (entry.values < 1 || entry.rows < 0 || (entry.rows > 0 && entry.values % entry.rows != 0)) std::abort();
      const auto bytes = static_cast<std::size_t>(entry.values * halfquad::bytes_of(entry.dtype));
      if (file.read(entry, 0, entry.values).size() != bytes) std::abort();
    }
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
