#include "launcher/report_view.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "io/block_digest.h"

namespace halfquad {
namespace {

constexpr std::size_t kMostDigits = 9;  // more is no number of a layer

bool is_number(std::string_view part) {
  return !part.empty() && part.size() <= kMostDigits &&
         std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
}

std::vector<std::string_view> parts_of(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0;;) {
    const std::size_t end = name.find('.', begin);
    parts.push_back(name.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

void append(std::string& text, std::string_view part) {
  if (!text.empty()) text += '.';
  text += part;
}

std::size_t index_of(std::vector<std::string>& names, const std::string& name) {
  const auto found = std::ranges::find(names, name);
  if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
  names.push_back(name);
  return names.size() - 1;
}

void add_to_stack(Stack& stack, const ModulePlace& place, std::size_t index, const ReportedLayer& layer) {
  const std::size_t projection = index_of(stack.projections, place.projection);
  stack.of_projection.resize(stack.projections.size());
  stack.cells[{*place.layer, projection}].add(index, layer);
  stack.of_layer[*place.layer].add(index, layer);
  stack.of_projection[projection].add(index, layer);
  stack.all.add(index, layer);
}

void add_layers(ReportView& view) {
  std::map<std::string, std::size_t> stacks;
  std::map<std::string, std::size_t> settings;
  for (std::size_t i = 0; i < view.file->layers.size(); ++i) {
    const ReportedLayer& layer = view.file->layers[i];
    const auto [group, is_new] = settings.try_emplace(settings_text(layer), view.settings.size());
    if (is_new) view.settings.push_back({group->first, {}});
    view.settings[group->second].all.add(i, layer);

    const ModulePlace place = place_of(layer.module);
    if (!place.layer) {
      view.outside.push_back(i);
      continue;
    }
    const auto [stack, new_stack] = stacks.try_emplace(place.stack, view.stacks.size());
    if (new_stack)
      view.stacks.push_back({.name = place.stack,
                             .layers = {},
                             .projections = {},
                             .cells = {},
                             .of_layer = {},
                             .of_projection = {},
                             .all = {}});
    add_to_stack(view.stacks[stack->second], place, i, layer);
  }
  for (Stack& stack : view.stacks) {
    for (const auto& [layer, group] : stack.of_layer) stack.layers.push_back(layer);
  }
}

void add_kept(ReportView& view) {
  std::map<std::string, KeptSummary> kept;
  for (const ReportFile::Kept& tensor : view.file->kept) {
    KeptSummary& group = kept[tensor.reason];
    if (group.tensors == 0) group.example = tensor.name;
    ++group.tensors;
    group.bytes += tensor.bytes;
  }
  for (auto& [reason, group] : kept) {
    group.reason = reason;
    view.kept.push_back(std::move(group));
  }
  std::ranges::stable_sort(view.kept, std::greater{}, &KeptSummary::bytes);
}

void order_by_error(ReportView& view) {
  const std::vector<ReportedLayer>& layers = view.file->layers;
  view.by_error.resize(layers.size());
  std::iota(view.by_error.begin(), view.by_error.end(), std::size_t{0});
  std::ranges::stable_sort(view.by_error, std::greater{},
                           [&](std::size_t i) { return layers[i].relative_error.value_or(-1); });
}

/// In the order of names: the order in the files differs between formats' versions, the content does not.
std::string fingerprint_of(const ReportFile& file) {
  std::set<std::string> lines;
  for (const ReportFile::Checksum& checksum : file.checksums) lines.insert(checksum.tensor + '\0' + checksum.xxh3);
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return fmt::format("{:016x}", BlockDigest::hash(std::as_bytes(std::span(text))));
}

std::string last_parts(const std::filesystem::path& path, std::size_t count) {
  std::vector<std::string> parts;
  for (const std::filesystem::path& part : path.lexically_normal()) {
    if (!part.empty()) parts.push_back(part.string());
  }
  std::string text;
  for (std::size_t i = parts.size() > count ? parts.size() - count : 0; i < parts.size(); ++i) {
    text += (text.empty() || text == "/" ? "" : "/") + parts[i];
  }
  return text;
}

}  // namespace

ModulePlace place_of(std::string_view module) {
  ModulePlace place;
  for (const std::string_view part : parts_of(module)) {
    if (!place.layer && is_number(part)) {
      std::int64_t number = 0;
      std::from_chars(part.data(), part.data() + part.size(), number);
      place.layer = number;
    } else if (!place.layer) {
      append(place.stack, part);
    } else {
      append(place.projection, is_number(part) ? "*" : part);
    }
  }
  if (!place.layer) return {"", std::nullopt, std::string(module)};
  return place;
}

void ModuleGroup::add(std::size_t index, const ReportedLayer& layer) {
  ++modules_;
  weights_ += layer.weights();
  bits_ += layer.weights() * layer.bits_per_weight();
  if (!layer.relative_error) {
    ++undefined_;
    return;
  }
  const double error = *layer.relative_error;
  defined_weights_ += layer.weights();
  squares_ += layer.weights() * error * error;
  least_ = std::min(least_.value_or(error), error);
  if (worst_ && error <= *worst_) return;
  worst_ = error;
  worst_index_ = index;
}

std::optional<double> ModuleGroup::relative_error() const noexcept {
  if (defined_weights_ <= 0) return std::nullopt;
  return std::sqrt(squares_ / defined_weights_);
}

const ModuleGroup* Stack::cell(std::int64_t layer, std::size_t projection) const {
  const auto found = cells.find({layer, projection});
  return found == cells.end() ? nullptr : &found->second;
}

ReportView view_of(const ReportFile& file) {
  ReportView view{.file = &file,
                  .stacks = {},
                  .outside = {},
                  .by_error = {},
                  .settings = {},
                  .kept = {},
                  .fingerprint = fingerprint_of(file)};
  add_layers(view);
  std::ranges::stable_sort(view.stacks, std::greater{}, [](const Stack& stack) { return stack.all.weights(); });
  std::ranges::stable_sort(view.settings, std::greater{},
                           [](const SettingsGroup& group) { return group.all.weights(); });
  add_kept(view);
  order_by_error(view);
  return view;
}

std::string settings_text(const ReportedLayer& layer) {
  std::string text = layer.bits + " bit, ";
  if (layer.per_tensor) {
    text += "per tensor";
  } else {
    text += layer.group_size == layer.cols && layer.axis == 1 ? "whole rows"
                                                              : fmt::format("groups of {}", layer.group_size);
  }
  if (layer.axis == 0) text += " along axis 0";
  return text + ", " + layer.solver;
}

std::vector<std::string> short_names(std::span<const ReportFile> files) {
  constexpr std::size_t kMostParts = 64;
  std::vector<std::string> names;
  for (std::size_t parts = 1; parts <= kMostParts; ++parts) {
    names.clear();
    for (const ReportFile& file : files) {
      const std::filesystem::path given(file.output);
      // "OUT/halfquad_report.json" is known by the directory.
      names.push_back(last_parts(
          given.filename() == file.path.filename() && given.has_parent_path() ? given.parent_path() : given, parts));
      if (names.back().empty()) names.back() = file.output;
    }
    if (std::set(names.begin(), names.end()).size() == names.size()) return names;
  }
  for (std::size_t i = 0; i < names.size(); ++i) names[i] += fmt::format(" ({})", i + 1);  // the same output again
  return names;
}

}  // namespace halfquad
