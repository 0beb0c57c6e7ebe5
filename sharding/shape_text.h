#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace halfquad {

/// "[4096, 11008]", for messages.
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace halfquad
