#include "sharding/given_importance.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "kernels/column_importance.h"
#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {

GivenImportance::GivenImportance(ImportanceFile file) : file_(std::move(file)), digest_(file_.digest()) {
  index_entries();
}

GivenImportance::GivenImportance(FileSystem& fs, const std::filesystem::path& path)
    : GivenImportance(ImportanceFile::open(fs, path)) {}

void GivenImportance::index_entries() {
  for (std::size_t i = 0; i < file_.entries().size(); ++i) {
    const std::string& name = file_.entries()[i].name;
    by_name_.emplace(name, i);
    const std::optional<InputName> input = gguf_input_name(name);
    if (input) by_layer_[input->layer].emplace(input->expert, i);
  }
}

void GivenImportance::count_experts(const Checkpoint& checkpoint) {
  experts_.clear();
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    const std::optional<InputName> name = gguf_input_name(tensor.name);
    if (!name || name->expert < 0) continue;
    std::int64_t& count = experts_[name->layer];
    count = std::max(count, name->expert + 1);
  }
}

void GivenImportance::assign(const Checkpoint& checkpoint, std::span<Decision> decisions) {
  count_experts(checkpoint);
  rows_.clear();
  missing_.clear();
  for (Decision& decision : decisions) {
    if (!decision.quantize() || decision.spec.importance != Importance::kFile || !decision.spec.weighted()) continue;
    const SourceTensor& tensor = checkpoint.tensors()[decision.source];
    const std::optional<Row> row = find(tensor);
    if (row && has_data(*row)) {
      rows_.emplace(decision.source, *row);
    } else {
      decision.unmeasured = true;
      missing_.push_back(tensor.name);
    }
  }
  HALFQUAD_REQUIRE(!rows_.empty() || missing_.empty(), kBadInput,
                   fmt::format("{}: none of its {} entries belongs to a layer of this model; they are called like {}, "
                               "layers like {}",
                               quoted(file_.name()), file_.entries().size(), quoted(file_.entries().front().name),
                               quoted(missing_.empty() ? "" : missing_.front())));
}

std::optional<GivenImportance::Row> GivenImportance::find(const SourceTensor& tensor) {
  const std::optional<InputName> name = gguf_input_name(tensor.name);
  for (const std::string_view own : {std::string_view(tensor.name), module_of(tensor.name)}) {
    const auto exact = by_name_.find(own);
    if (exact != by_name_.end()) return row_of(exact->second, tensor, std::nullopt);
  }
  if (!name) return std::nullopt;
  for (const std::string& layer : layers_of_same_inputs(name->layer)) {
    const std::optional<std::size_t> entry = find_entry({layer, name->expert});
    if (entry) return row_of(*entry, tensor, name);
  }
  return std::nullopt;
}

std::optional<std::size_t> GivenImportance::find_entry(const InputName& name) const {
  const auto layer = by_layer_.find(name.layer);
  if (layer == by_layer_.end()) return std::nullopt;
  for (const std::int64_t expert : {name.expert, std::int64_t{-1}}) {
    const auto found = layer->second.find(expert);
    if (found != layer->second.end()) return found->second;
  }
  return std::nullopt;
}

/// The row of `entry` that is for a layer. `name`: by which it was found, unless that was the layer's own.
std::optional<GivenImportance::Row> GivenImportance::row_of(std::size_t entry, const SourceTensor& tensor,
                                                            const std::optional<InputName>& name) {
  const ImportanceEntry& found = file_.entries()[entry];
  const std::int64_t cols = tensor.shape[1];
  if (found.values == cols && found.rows <= 1) return Row{entry, 0, cols};
  const auto count = name && name->expert >= 0 ? experts_.find(name->layer) : experts_.end();
  const std::int64_t experts = count == experts_.end() ? 1 : count->second;
  const bool fits = found.values == cols * experts && (found.rows == 0 || found.rows == experts);
  if (fits) return Row{entry, experts == 1 ? 0 : name->expert, cols};
  const std::string wanted = experts == 1 ? fmt::format("has {} inputs", cols)
                                          : fmt::format("is one of {} experts with {} inputs each", experts, cols);
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: {} holds {} values, but {} {}; give the file that was made for this model",
                          quoted(file_.name()), quoted(found.name), found.values, quoted(tensor.name), wanted));
}

std::vector<float> GivenImportance::values(std::size_t entry, std::int64_t first, std::int64_t count) const {
  const ImportanceEntry& from = file_.entries()[entry];
  const std::vector<std::byte> bytes = file_.read(from, first, count);
  std::vector<float> values(static_cast<std::size_t>(count));
  decode_to_f32(bytes.data(), from.dtype, count, values.data());
  return values;
}

/// Whether anything was measured for a row; checks all values of its entry when they are first asked for.
bool GivenImportance::has_data(const Row& row) {
  const auto [found, is_new] = checked_.try_emplace(row.entry);
  if (!is_new) return found->second[static_cast<std::size_t>(row.index)];
  const ImportanceEntry& entry = file_.entries()[row.entry];
  for (std::int64_t first = 0; first < entry.values; first += row.cols) {
    const std::vector<float> all = values(row.entry, first, row.cols);
    const auto bad = std::ranges::find_if(all, [](float value) { return !(value >= 0 && std::isfinite(value)); });
    HALFQUAD_REQUIRE(bad == all.end(), kBadInput,
                     fmt::format("{}: value {} of {} is {}, but importances are finite and not negative",
                                 quoted(file_.name()), first + (bad - all.begin()), quoted(entry.name), *bad));
    const std::size_t index = found->second.size();
    const float count = entry.counts.empty() ? 1 : entry.counts[std::min(index, entry.counts.size() - 1)];
    const bool any = std::ranges::any_of(all, [](float value) { return value > 0; });
    // The older form fills the rows of experts that no token reached with one number.
    const bool filled = file_.kind() == ImportanceFile::Kind::kImatrixLegacy && entry.values > row.cols &&
                        std::ranges::all_of(all, [&](float value) { return value == all.front(); });
    found->second.push_back(count > 0 && any && !filled);
  }
  return found->second[static_cast<std::size_t>(row.index)];
}

std::shared_ptr<const std::vector<float>> GivenImportance::weights_of(std::size_t source, double power) const {
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find_if(
        remembered_, [&](const Remembered& one) { return one.weights != nullptr && one.source == source; });
    if (found != remembered_.end()) return found->weights;
  }
  const auto row = rows_.find(source);
  HALFQUAD_REQUIRE(row != rows_.end(), kInternal, fmt::format("tensor {} has no importance", source));
  const Row& of = row->second;
  ImportanceScale scale = kGivenImportance;
  scale.power = power;
  auto weights =
      std::make_shared<const std::vector<float>>(importance_of(values(of.entry, of.index * of.cols, of.cols), scale));
  const std::lock_guard lock(mutex_);
  remembered_[oldest_] = {source, weights};
  oldest_ = (oldest_ + 1) % kRemembered;
  return weights;
}

}  // namespace halfquad
