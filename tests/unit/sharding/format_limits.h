#pragma once

#include <cstdint>

#include "sharding/format.h"
#include "sharding/rules.h"

namespace halfquad::test {

/// What decide() is to know of `format`, which must outlive it.
[[nodiscard]] inline SpecLimits limits_of(const Format& format) {
  return {.adapt = [&format](QuantSpec& spec, std::int64_t cols) { format.adapt(spec, cols); },
          .why_not = [&format](const QuantSpec& spec, std::int64_t rows,
                               std::int64_t cols) { return format.why_not(spec, rows, cols); }};
}

}  // namespace halfquad::test
