#include "launcher/report_comparison.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string_view>

namespace halfquad {
namespace {

void compare_layers(const ReportFile& first, const ReportFile& second, OutputDifference& found) {
  std::map<std::string_view, const ReportedLayer*> named;
  for (const ReportedLayer& layer : first.layers) named[layer.module] = &layer;
  for (const ReportedLayer& layer : second.layers) {
    const auto other = named.find(layer.module);
    if (other == named.end()) {
      ++found.only_second;
      continue;
    }
    ++found.common;
    const std::optional<double> before = other->second->relative_error;
    if (!before || !layer.relative_error) continue;
    const double difference = *layer.relative_error - *before;
    ++(difference < 0 ? found.better : difference > 0 ? found.worse : found.equal);
    found.changes.push_back({layer.module, *before, *layer.relative_error});
  }
  found.only_first = named.size() - found.common;
  std::ranges::stable_sort(found.changes, std::greater{},
                           [](const ModuleChange& change) { return std::abs(change.difference()); });
}

void compare_checksums(const ReportFile& first, const ReportFile& second, OutputDifference& found) {
  std::map<std::string_view, std::string_view> named;
  for (const ReportFile::Checksum& checksum : first.checksums) named[checksum.tensor] = checksum.xxh3;
  std::size_t common = 0;
  for (const ReportFile::Checksum& checksum : second.checksums) {
    const auto other = named.find(checksum.tensor);
    if (other == named.end()) continue;
    ++common;
    ++(other->second == checksum.xxh3 ? found.same_tensors : found.other_tensors);
  }
  found.tensors_of_one = first.checksums.size() + second.checksums.size() - 2 * common;
}

}  // namespace

OutputDifference difference_of(const ReportFile& first, const ReportFile& second) {
  OutputDifference found;
  compare_layers(first, second, found);
  compare_checksums(first, second, found);
  return found;
}

const Stack* stack_beside(const Stack& stack, const ReportView& of, const ReportView& view) {
  const auto found = std::ranges::find(view.stacks, stack.name, &Stack::name);
  if (found != view.stacks.end()) return &*found;
  return of.stacks.size() == 1 && view.stacks.size() == 1 ? &view.stacks.front() : nullptr;
}

std::optional<double> relative_change(std::optional<double> first, std::optional<double> second) {
  if (!first || !second || *first == 0) return std::nullopt;
  return *second / *first - 1;
}

}  // namespace halfquad
