#pragma once

#include <optional>
#include <string>

#include <boost/json/object.hpp>

namespace halfquad {

/// "model_type" of a config.json; empty when it says nothing, or there is none.
[[nodiscard]] std::string model_type_of(const std::optional<boost::json::object>& config);

}  // namespace halfquad
