#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/gguf_types.h"
#include "sharding/row_packer.h"

namespace halfquad {

/// Rows of ggml's blocks of 32 codes with their own scale: Q4_1 (up to 4 bits) and Q5_1 for zeros of any value, Q4_0,
/// Q5_0 and Q8_0 for symmetric ones. Larger groups repeat their scale in each block. Super-blocks: the K types. MXFP4
/// and NVFP4.
[[nodiscard]] const RowPacker& gguf_rows() noexcept;
[[nodiscard]] std::optional<std::string> why_not_gguf_rows(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

/// @pre !why_not_gguf_rows().
[[nodiscard]] const GgmlType& gguf_type_of(const QuantSpec& spec);

}  // namespace halfquad
