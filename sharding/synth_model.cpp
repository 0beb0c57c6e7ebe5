#include "sharding/synth_model.h"

#include <utility>

#include <fmt/format.h>

#include "sharding/synth_preset.h"

namespace halfquad {
namespace {

std::uint64_t size_of(const TensorEntry& tensor) {
  std::int64_t count = bytes_of(tensor.dtype);
  for (const std::int64_t extent : tensor.shape) count *= extent;
  return static_cast<std::uint64_t>(count);
}

// Greedily in order, a file closed before it would exceed the limit: as huggingface_hub cuts state dicts.
std::vector<std::vector<TensorEntry>> cut_into_files(std::vector<TensorEntry> tensors, std::uint64_t limit) {
  std::vector<std::vector<TensorEntry>> files(1);
  std::uint64_t used = 0;
  for (TensorEntry& tensor : tensors) {
    const std::uint64_t size = size_of(tensor);
    if (!files.back().empty() && (size > limit || used > limit - size)) {
      files.emplace_back();
      used = 0;
    }
    tensor.begin = used;
    tensor.end = used += size;
    files.back().push_back(std::move(tensor));
  }
  return files;
}

std::string file_name(std::size_t index, std::size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

boost::json::object index_of(const std::vector<std::vector<TensorEntry>>& files) {
  std::uint64_t total = 0;
  boost::json::object weight_map;
  for (std::size_t i = 0; i < files.size(); ++i) {
    for (const TensorEntry& tensor : files[i]) {
      total += tensor.bytes();
      weight_map[tensor.name] = file_name(i, files.size());
    }
  }
  return {{"metadata", boost::json::object{{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
}

}  // namespace

std::uint64_t synth_bytes(const SynthOptions& options) {
  std::uint64_t total = 0;
  for (const TensorEntry& tensor : synth_tensors(synth_preset(options), options.dtype)) total += size_of(tensor);
  return total;
}

SynthModel synth_model(const SynthOptions& options) {
  const SynthPreset preset = synth_preset(options);
  auto files = cut_into_files(synth_tensors(preset, options.dtype), options.shard_bytes);
  SynthModel model;
  model.config = synth_config(preset, options.dtype);
  if (files.size() > 1) model.index = index_of(files);
  for (std::size_t i = 0; i < files.size(); ++i) {
    model.files.push_back({file_name(i, files.size()), std::move(files[i])});
  }
  return model;
}

}  // namespace halfquad
