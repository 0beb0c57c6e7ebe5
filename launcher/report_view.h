#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/report_file.h"

namespace halfquad {

/// Where a module stands in its model: "model.layers.3.mlp.experts.17.up_proj" is the projection
/// "mlp.experts.*.up_proj" of layer 3 of the stack "model.layers".
struct ModulePlace {
  std::string stack;
  std::optional<std::int64_t>
      layer;  ///< Nothing for what is in no numbered block; `projection` is its whole name then.
  std::string projection;
  friend bool operator==(const ModulePlace&, const ModulePlace&) = default;
};
[[nodiscard]] ModulePlace place_of(std::string_view module);

/// Several modules taken together. Their relative error is the root of the mean of the squared ones, each counting by
/// its weights; modules whose error is not defined are left out of it.
class ModuleGroup {
 public:
  void add(std::size_t index, const ReportedLayer& layer);

  [[nodiscard]] std::size_t modules() const noexcept { return modules_; }
  [[nodiscard]] std::size_t undefined() const noexcept { return undefined_; }
  [[nodiscard]] double weights() const noexcept { return weights_; }
  [[nodiscard]] std::optional<double> relative_error() const noexcept;
  [[nodiscard]] std::optional<double> least_error() const noexcept { return least_; }
  [[nodiscard]] std::optional<double> worst_error() const noexcept { return worst_; }
  /// Index into ReportFile::layers of the one with the worst error.
  [[nodiscard]] std::optional<std::size_t> worst() const noexcept { return worst_index_; }
  /// Of all weights, scales and zeros included.
  [[nodiscard]] double bits_per_weight() const noexcept { return weights_ > 0 ? bits_ / weights_ : 0; }

 private:
  std::size_t modules_ = 0, undefined_ = 0;
  double weights_ = 0, bits_ = 0, defined_weights_ = 0, squares_ = 0;
  std::optional<double> least_, worst_;
  std::optional<std::size_t> worst_index_;
};

/// The numbered blocks below one name, as a grid of layers and projections.
struct Stack {
  std::string name;
  std::vector<std::int64_t> layers;                                   ///< Ascending.
  std::vector<std::string> projections;                               ///< In the order of the report.
  std::map<std::pair<std::int64_t, std::size_t>, ModuleGroup> cells;  ///< By layer and index of projection.
  std::map<std::int64_t, ModuleGroup> of_layer;                       ///< All projections together.
  std::vector<ModuleGroup> of_projection;                             ///< All layers together.
  ModuleGroup all;

  [[nodiscard]] const ModuleGroup* cell(std::int64_t layer, std::size_t projection) const;
};

/// Modules with the same settings.
struct SettingsGroup {
  std::string text;  ///< "4 bit, groups of 64, hqq"
  ModuleGroup all;
};

struct KeptSummary {
  std::string reason;
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;
  std::string example;
};

/// A report, put together for people. Refers to the report.
struct ReportView {
  const ReportFile* file = nullptr;
  std::vector<Stack> stacks;            ///< Most weights first.
  std::vector<std::size_t> outside;     ///< Layers in no stack: indices into file->layers.
  std::vector<std::size_t> by_error;    ///< All layers, the worst relative error first; undefined ones at the end.
  std::vector<SettingsGroup> settings;  ///< Most weights first.
  std::vector<KeptSummary> kept;        ///< Most bytes first.
  std::string fingerprint;              ///< Of all tensors' names and checksums, 16 hexadecimal digits.
};
[[nodiscard]] ReportView view_of(const ReportFile& file);

/// "4 bit, groups of 64, hqq"; what is not usual (axis 0, per tensor) is added.
[[nodiscard]] std::string settings_text(const ReportedLayer& layer);

/// Short names that tell outputs apart: the last parts of their paths, as many as that takes.
[[nodiscard]] std::vector<std::string> short_names(std::span<const ReportFile> files);

}  // namespace halfquad
