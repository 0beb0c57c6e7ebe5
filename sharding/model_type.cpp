#include "sharding/model_type.h"

#include <boost/json/value.hpp>

namespace halfquad {

std::string model_type_of(const std::optional<boost::json::object>& config) {
  const boost::json::value* type = config ? config->if_contains("model_type") : nullptr;
  return type != nullptr && type->is_string() ? std::string(type->get_string()) : std::string();
}

}  // namespace halfquad
