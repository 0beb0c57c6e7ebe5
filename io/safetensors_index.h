#pragma once

#include <map>
#include <string>
#include <string_view>

namespace halfquad {

/// Tensor name -> file name, from the text of a model.safetensors.index.json. File names are plain: no separators, no
/// "." or "..", no NUL. Throws kBadInput; `what` names the index in messages, printed as it is.
[[nodiscard]] std::map<std::string, std::string> parse_safetensors_index(std::string_view text, std::string_view what);

}  // namespace halfquad
