#include "io/safetensors_index.h"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

bool is_plain_file_name(std::string_view name) {
  constexpr std::string_view kForbidden("/\0", 2);
  return !name.empty() && name != "." && name != ".." && name.find_first_of(kForbidden) == std::string_view::npos;
}

}  // namespace

std::map<std::string, std::string> parse_safetensors_index(std::string_view text, std::string_view what) {
  const json::value root = parse_json(text, what);
  HALFQUAD_REQUIRE(root.is_object(), kBadInput, fmt::format("{}: the index is not a JSON object", what));
  const json::value* map = root.get_object().if_contains("weight_map");
  HALFQUAD_REQUIRE(map != nullptr, kBadInput, fmt::format("{}: the index has no \"weight_map\"", what));
  HALFQUAD_REQUIRE(map->is_object(), kBadInput, fmt::format("{}: \"weight_map\" is not a JSON object", what));
  HALFQUAD_REQUIRE(!map->get_object().empty(), kBadInput, fmt::format("{}: \"weight_map\" names no tensor", what));

  std::map<std::string, std::string> files;
  for (const auto& [key, value] : map->get_object()) {
    const std::string_view tensor(key.data(), key.size());
    HALFQUAD_REQUIRE(value.is_string(), kBadInput,
                     fmt::format("{}: the file of tensor {} is not a string", what, quoted(tensor)));
    const std::string_view file(value.get_string());
    HALFQUAD_REQUIRE(is_plain_file_name(file), kBadInput,
                     fmt::format("{}: tensor {} is said to be in {}, which is not the name of a file in the model's "
                                 "own directory",
                                 what, quoted(tensor), quoted(file)));
    files.emplace(tensor, file);
  }
  return files;
}

}  // namespace halfquad
