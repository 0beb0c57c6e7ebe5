#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_image.h"
#include "io/file_system.h"
#include "io/gguf_types.h"

namespace halfquad {

inline constexpr std::uint32_t kGgufVersion = 3;
inline constexpr std::uint32_t kGgufAlignment = 32;
/// Bytes of a tensor's name that ggml has room for.
inline constexpr std::size_t kMaxGgufName = 63;
inline constexpr std::size_t kMaxGgufDims = 4;
/// Largest header accepted: far above any tokenizer's, far below what would trouble a machine.
inline constexpr std::uint64_t kMaxGgufHeaderBytes = 1'000'000'000;

/// Key of the alignment in bytes, u32; kGgufAlignment without it.
inline constexpr std::string_view kGgufAlignmentKey = "general.alignment";

struct GgufKey {
  std::string name;
  GgufValue value;
};

/// One tensor as a GGUF header declares it.
struct GgufTensor {
  std::string name;
  std::vector<std::int64_t> dims;  ///< Innermost first: dims[0] is the length of a row.
  std::uint32_t type = 0;          ///< Id of a ggml type (io/gguf_types.h).
  std::uint64_t offset = 0;        ///< Bytes from the start of the data section.

  /// @pre The type is known and the dimensions fit it, as in any header that was read.
  [[nodiscard]] std::uint64_t bytes() const;
};

struct GgufHeader {
  std::uint32_t version = kGgufVersion;
  std::vector<GgufKey> keys;        ///< In the file's order.
  std::vector<GgufTensor> tensors;  ///< In the file's order, which is that of their data.
  std::uint32_t alignment = kGgufAlignment;
  std::uint64_t data_start = 0;  ///< File offset of the data section.

  /// Nothing when there is no such key.
  [[nodiscard]] const GgufValue* find(std::string_view key) const;
};

/// Reads and checks the header of an open file of version 2 or 3, little endian; nothing of the data is touched. As
/// strict as ggml's reader (no duplicate or empty keys, no duplicate tensor names, rows of whole blocks, each tensor
/// where the one before it and its padding end) and stricter: keys and names are UTF-8 without NUL, names are not
/// empty, a bool is 0 or 1, and the file ends where the last tensor or its padding ends. Every count and length is held
/// against the file's before anything is allocated for it. Throws kBadInput naming the file, the key or tensor, and the
/// byte.
[[nodiscard]] GgufHeader read_gguf_header(ReadFile& file, std::string_view name);

/// The file with this header: `keys` and `tensors` in their order, each tensor behind the one before it, padded to the
/// alignment. `offset` of the tensors and `data_start` are not looked at. Throws kBadInput for what read_gguf_header()
/// would refuse, and when `alignment` and the key for it disagree.
[[nodiscard]] FileImage gguf_image(const GgufHeader& header);

}  // namespace halfquad
