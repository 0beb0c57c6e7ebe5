#pragma once

#include "sharding/conversion.h"
#include "sharding/formats/gguf_model.h"

namespace halfquad {

/// `rows` as the order of a conversion.
[[nodiscard]] RowOrder order_of(const GgufRows& rows) noexcept;
/// Whether all of a source's rows are there, if in another order.
[[nodiscard]] bool has_whole_rows(const RowOrder& order) noexcept;

}  // namespace halfquad
