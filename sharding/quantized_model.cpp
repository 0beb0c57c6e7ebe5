#include "sharding/quantized_model.h"

#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {

namespace {

std::string known_formats() {
  std::string names;
  for (const Format* format : formats()) names += fmt::format("{}{}", names.empty() ? "" : ", ", format->name());
  return names;
}

QuantizedModel::Opened open_model(FileSystem& fs, const std::filesystem::path& path) {
  for (const Format* format : formats()) {
    if (std::optional<OpenedModel> opened = format->open(fs, path)) return {format, std::move(*opened)};
  }
  Checkpoint checkpoint(fs, path);
  for (const Format* format : formats()) {
    if (!format->made(checkpoint)) continue;
    SmallTensorReader reader(fs, checkpoint);
    std::vector<StoredLayer> layers = format->layers(checkpoint, reader);
    return {format, {std::move(checkpoint), std::move(layers)}};
  }
  throw Error(ErrorCode::kBadInput, fmt::format("{} holds no quantized layer in any of the formats {}",
                                                quoted(path.string()), known_formats()));
}

}  // namespace

QuantizedModel::QuantizedModel(FileSystem& fs, const std::filesystem::path& path)
    : QuantizedModel(open_model(fs, path)) {}

QuantizedModel::QuantizedModel(Opened opened)
    : checkpoint_(std::move(opened.model.checkpoint)), format_(opened.format), layers_(std::move(opened.model.layers)) {
  std::set<std::size_t> taken;
  for (const StoredLayer& layer : layers_) taken.insert(layer.tensors.begin(), layer.tensors.end());
  for (std::size_t i = 0; i < checkpoint_.tensors().size(); ++i) {
    if (!taken.contains(i)) plain_.push_back(i);
  }
}

}  // namespace halfquad
