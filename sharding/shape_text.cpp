#include "sharding/shape_text.h"

namespace halfquad {

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t extent : shape) text.append(text.size() == 1 ? "" : ", ").append(std::to_string(extent));
  return text + "]";
}

}  // namespace halfquad
