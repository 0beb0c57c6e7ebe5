#pragma once

#include "sharding/conversion.h"
#include "sharding/formats/gguf_model.h"

namespace halfquad {

/// `rows` as the order of a conversion.
[[nodiscard]] RowOrder order_of(const GgufRows& rows) noexcept;

}  // namespace halfquad
