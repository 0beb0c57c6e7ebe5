#include "launcher/conversion_summary.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/report.h"

namespace halfquad {
namespace {

/// Layers that did not come out as they went in: indices into OutputLayout::quantized().
std::vector<std::size_t> changed_layers(const RunResult& result) {
  std::vector<std::size_t> changed;
  for (std::size_t i = 0; i < result.tensors.size(); ++i) {
    if (result.tensors[i].error.abs.value() != 0) changed.push_back(i);
  }
  return changed;
}

std::string why(const Job& job, std::size_t layer) {
  const std::string& text = job.converted->changes[job.layout.quantized()[layer].source];
  return text.empty() ? "grids that the format cannot hold" : text;
}

double root_mean_square(const ErrorSums& error, std::uint64_t weights) {
  return weights == 0 ? 0 : std::sqrt(error.square.value() / static_cast<double>(weights));
}

std::uint64_t weights_of(const QuantizedTensor& layer) { return static_cast<std::uint64_t>(layer.rows * layer.cols); }

}  // namespace

std::string conversion_text(const Job& job, const RunResult& result) {
  const std::vector<std::size_t> changed = changed_layers(result);
  const std::size_t exact = result.tensors.size() - changed.size();
  std::string text = fmt::format("from {}: {} layers exact, {} changed", job.converted->format, exact, changed.size());
  if (changed.empty()) return text;
  ErrorSums error;
  std::uint64_t weights = 0;
  std::map<std::string, std::size_t> reasons;
  for (const std::size_t i : changed) {
    error.add(result.tensors[i].error);
    weights += weights_of(job.layout.quantized()[i]);
    ++reasons[why(job, i)];
  }
  text += fmt::format("; these differ by {:.3g} rms, {:.3g} of their weights", root_mean_square(error, weights),
                      error_figures(error, weights).relative.value_or(0));
  for (const auto& [reason, count] : reasons) text += fmt::format("; {}: {}", count, reason);
  return text;
}

boost::json::object conversion_json(const Job& job, const RunResult& result) {
  const std::vector<std::size_t> changed = changed_layers(result);
  boost::json::array layers;
  for (const std::size_t i : changed) {
    const QuantizedTensor& layer = job.layout.quantized()[i];
    layers.push_back({{"module", layer.module},
                      {"why", why(job, i)},
                      {"given_grid", layer.given},
                      {"rms_error", root_mean_square(result.tensors[i].error, weights_of(layer))}});
  }
  return {{"path", job.converted->path},
          {"format", job.converted->format},
          {"exact_layers", result.tensors.size() - changed.size()},
          {"changed_layers", std::move(layers)}};
}

}  // namespace halfquad
