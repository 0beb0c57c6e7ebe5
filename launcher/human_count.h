#pragma once

#include <cstdint>
#include <string>

namespace halfquad {

/// "6.48 G" for 6'480'000'000.
[[nodiscard]] std::string human_count(std::uint64_t count);

}  // namespace halfquad
