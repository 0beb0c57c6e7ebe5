#include "sharding/model_outline.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "sharding/recipe_marks.h"

namespace halfquad {
namespace {

bool is_number(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// Tensors that share all of their name up to its last number: those of an expert, or those of a block but its experts.
struct Unit {
  std::vector<std::size_t> tensors;
  std::vector<std::string> descriptions;  ///< All that the output's size depends on.
};

struct UnitName {
  std::string_view prefix;  ///< Through the last number that stands alone between dots.
  std::string pattern;      ///< The same without the numbers.
};

UnitName unit_name(std::string_view name) {
  UnitName unit;
  std::string pattern;
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    pattern.append(is_number(part) ? "#" : part).push_back('.');
    if (is_number(part)) unit = {name.substr(0, end), pattern};
    begin = end + 1;
  }
  return unit;
}

std::string description(const SourceTensor& tensor, std::string_view rest, std::string_view mark, std::size_t place) {
  std::string text = fmt::format("{} {} {} {} {} {} {}", rest, name_of(tensor.dtype), tensor.bytes, mark, place,
                                 tensor.decoder != nullptr, tensor.kept_as ? name_of(*tensor.kept_as) : "");
  for (const std::int64_t extent : tensor.shape) text += fmt::format(" {}", extent);
  return text;
}

}  // namespace

std::string_view module_part(std::string_view name) noexcept {
  const std::size_t dot = name.rfind('.');
  return dot == name.npos ? std::string_view() : name.substr(0, dot);
}

ModelOutline::ModelOutline(const Checkpoint& checkpoint, const Recipe& recipe)
    : classes_(checkpoint), alike_(find_alike(checkpoint, recipe)) {
  for (const SourceTensor& tensor : checkpoint.tensors()) weights_ += static_cast<double>(tensor.elements());
}

Checkpoint ModelOutline::find_alike(const Checkpoint& checkpoint, const Recipe& recipe) {
  const std::span<const SourceTensor> tensors = checkpoint.tensors();
  std::vector<std::string> marks = pattern_marks(checkpoint, recipe);
  std::map<std::string_view, std::pair<std::string, Unit>> units;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string_view name = tensors[i].name;
    if (recipe.tensors.contains(name)) marks[i].append(name);
    UnitName of = unit_name(name);
    auto& [pattern, unit] = units[of.prefix];
    pattern = std::move(of.pattern);
    unit.tensors.push_back(i);
    unit.descriptions.push_back(
        description(tensors[i], name.substr(of.prefix.size()), marks[i], classes_.of(module_part(name))));
  }
  struct Group {
    const Unit* first = nullptr;
    std::uint64_t times = 0;
  };
  std::map<std::string, Group> groups;
  for (auto& [prefix, named] : units) {
    auto& [text, unit] = named;
    std::ranges::sort(unit.descriptions);
    for (const std::string& line : unit.descriptions) text.append("\n").append(line);
    Group& group = groups[text];
    if (group.times++ == 0) group.first = &unit;
  }
  std::vector<SourceTensor> alike;
  for (const auto& [text, group] : groups) {
    for (const std::size_t tensor : group.first->tensors) {
      const std::string_view module = module_part(tensors[tensor].name);
      places_.insert_or_assign(std::string(module), Place{classes_.of(module), group.times});
      alike.push_back(tensors[tensor]);
    }
  }
  return checkpoint.with_tensors(std::move(alike), checkpoint.config());
}

ModelOutline::Place ModelOutline::place_of(std::string_view module) const {
  const auto found = places_.find(module);
  return found == places_.end() ? Place{} : found->second;
}

}  // namespace halfquad
