#include "sharding/synth.h"

#include <algorithm>
#include <array>
#include <utility>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "io/safetensors_header.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/gaussian.h"
#include "sharding/hqq_keys.h"

namespace halfquad {
namespace {

struct Preset {
  std::string_view name;
  std::int64_t hidden, intermediate;
  int layers, heads, kv_heads;
  std::int64_t vocab;
  std::int64_t positions;
  double rope_theta;
  double norm_eps;
};

constexpr std::array<Preset, 4> kPresets = {{
    {"tiny", 256, 704, 4, 4, 2, 512, 2048, 10000.0, 1e-5},
    {"llama-8b", 4096, 14336, 32, 32, 8, 128256, 8192, 500000.0, 1e-5},
    {"llama-13b", 5120, 13824, 40, 40, 40, 32000, 4096, 10000.0, 1e-5},
    {"llama-70b", 8192, 28672, 80, 64, 8, 32000, 4096, 10000.0, 1e-5},
}};

constexpr int kMaxLayers = 10000;
constexpr float kWeightDeviation = 0.02F;  // what Llama models are initialized with
constexpr float kNormDeviation = 0.1F;
constexpr std::uint64_t kBlockBytes = 8 << 20;
constexpr std::size_t kChunkBytes = 512 << 10;  // stays in the second-level cache between filling and writing

std::string preset_list() {
  std::string names;
  for (const Preset& preset : kPresets) names.append(names.empty() ? "" : ", ").append(preset.name);
  return names;
}

Preset preset_of(const SynthOptions& options) {
  const auto found =
      std::find_if(kPresets.begin(), kPresets.end(), [&](const Preset& p) { return p.name == options.preset; });
  HALFQUAD_REQUIRE(found != kPresets.end(), kUsage,
                   fmt::format("unknown preset {}; known are {}", halfquad::quoted(options.preset), preset_list()));
  HALFQUAD_REQUIRE(options.dtype == DType::kBF16 || options.dtype == DType::kF16 || options.dtype == DType::kF32,
                   kUsage, fmt::format("synthetic weights are BF16, F16 or F32, not {}", name_of(options.dtype)));
  HALFQUAD_REQUIRE(options.shard_bytes > 0, kUsage, "the largest weight file must have room for some bytes, not 0");
  Preset preset = *found;
  preset.layers = options.layers.value_or(preset.layers);
  HALFQUAD_REQUIRE(preset.layers >= 1 && preset.layers <= kMaxLayers, kUsage,
                   fmt::format("{} layers asked for; a synthetic model has 1 to {}", preset.layers, kMaxLayers));
  return preset;
}

// In the order of a model's state dict; begin and end are set by cut_into_files.
std::vector<TensorEntry> tensors_of(const Preset& preset, DType dtype) {
  std::vector<TensorEntry> tensors;
  const auto add = [&](std::string name, std::vector<std::int64_t> shape) {
    tensors.push_back({.name = std::move(name), .dtype = dtype, .shape = std::move(shape)});
  };
  const std::int64_t hidden = preset.hidden;
  const std::int64_t kv = hidden / preset.heads * preset.kv_heads;
  add("model.embed_tokens.weight", {preset.vocab, hidden});
  for (int layer = 0; layer < preset.layers; ++layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    add(block + "self_attn.q_proj.weight", {hidden, hidden});
    add(block + "self_attn.k_proj.weight", {kv, hidden});
    add(block + "self_attn.v_proj.weight", {kv, hidden});
    add(block + "self_attn.o_proj.weight", {hidden, hidden});
    add(block + "mlp.gate_proj.weight", {preset.intermediate, hidden});
    add(block + "mlp.up_proj.weight", {preset.intermediate, hidden});
    add(block + "mlp.down_proj.weight", {hidden, preset.intermediate});
    add(block + "input_layernorm.weight", {hidden});
    add(block + "post_attention_layernorm.weight", {hidden});
  }
  add("model.norm.weight", {hidden});
  add("lm_head.weight", {preset.vocab, hidden});
  return tensors;
}

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

boost::json::object config_of(const Preset& preset, DType dtype) {
  return {
      {"architectures", boost::json::array{"LlamaForCausalLM"}},
      {"attention_bias", false},
      {"bos_token_id", 1},
      {"eos_token_id", 2},
      {"hidden_act", "silu"},
      {"hidden_size", preset.hidden},
      {"initializer_range", 0.02},
      {"intermediate_size", preset.intermediate},
      {"max_position_embeddings", preset.positions},
      {"model_type", "llama"},
      {"num_attention_heads", preset.heads},
      {"num_hidden_layers", preset.layers},
      {"num_key_value_heads", preset.kv_heads},
      {"rms_norm_eps", preset.norm_eps},
      {"rope_theta", preset.rope_theta},
      {"tie_word_embeddings", false},
      {"torch_dtype", torch_name(dtype)},
      {"use_cache", true},
      {"vocab_size", preset.vocab},
  };
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

/// Fills one weight file, a block of one tensor at a time.
class FileFiller {
 public:
  FileFiller(std::uint64_t seed, DType dtype)
      : weights_(seed, dtype, 0.0F, kWeightDeviation),
        norms_(seed, dtype, 1.0F, kNormDeviation),
        element_bytes_(static_cast<std::uint64_t>(bytes_of(dtype))) {}

  void fill(WriteFile& file, const std::vector<TensorEntry>& tensors, int threads, ProgressCounters& progress,
            const StopFlag& stop) const {
    const std::string header = serialize_safetensors_header(tensors, {{"format", "pt"}});
    file.allocate(header.size() + tensors.back().end);
    file.write(0, std::as_bytes(std::span(header)));
    std::vector<std::pair<std::size_t, std::uint64_t>> blocks;  // tensor, offset in it
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      for (std::uint64_t at = 0; at < tensors[t].bytes(); at += kBlockBytes) blocks.emplace_back(t, at);
    }
    std::vector<std::vector<std::byte>> buffers(static_cast<std::size_t>(threads));
    for (auto& buffer : buffers) buffer.resize(kChunkBytes);
    parallel_for(threads, static_cast<std::int64_t>(blocks.size()), stop, [&](int worker, std::int64_t index) {
      const auto [t, at] = blocks[static_cast<std::size_t>(index)];
      const std::uint64_t bytes = std::min(kBlockBytes, tensors[t].bytes() - at);
      write_block(file, header.size(), tensors[t], {at, bytes}, buffers[static_cast<std::size_t>(worker)]);
      progress.bytes_written += bytes;
      progress.source_bytes_done += bytes;
      if (at + bytes == tensors[t].bytes()) ++progress.tensors_done;
    });
  }

 private:
  struct Range {
    std::uint64_t offset, bytes;
  };

  void write_block(WriteFile& file, std::uint64_t data_start, const TensorEntry& tensor, Range block,
                   std::span<std::byte> chunk) const {
    const GaussianSource& source = tensor.shape.size() == 1 ? norms_ : weights_;
    const std::uint64_t place = data_start + tensor.begin + block.offset;
    for (std::uint64_t done = 0; done < block.bytes; done += kChunkBytes) {
      const auto part = chunk.first(std::min<std::uint64_t>(kChunkBytes, block.bytes - done));
      source.fill(tensor.name, (block.offset + done) / element_bytes_, part);
      file.write(place + done, part);
    }
    file.start_writeback(place, block.bytes);
  }

  GaussianSource weights_;
  GaussianSource norms_;
  std::uint64_t element_bytes_;
};

std::filesystem::path without_trailing_slash(const std::filesystem::path& directory) {
  std::filesystem::path path = directory.lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

void require_unused(FileSystem& fs, const std::filesystem::path& directory) {
  const FileKind kind = fs.kind(directory);
  if (kind == FileKind::kMissing) return;
  HALFQUAD_REQUIRE(
      kind == FileKind::kDirectory && fs.list(directory).empty(), kUsage,
      fmt::format("{} exists already; name a new or an empty directory", halfquad::quoted(directory.string())));
}

void write_model(FileSystem& fs, const std::filesystem::path& directory, const SynthOptions& options,
                 ProgressCounters& progress, const StopFlag& stop) {
  const Preset preset = preset_of(options);
  const auto files = cut_into_files(tensors_of(preset, options.dtype), options.shard_bytes);
  const FileFiller filler(options.seed, options.dtype);
  std::vector<std::unique_ptr<WriteFile>> open;
  for (std::size_t i = 0; i < files.size(); ++i) {
    open.push_back(fs.create(directory / file_name(i, files.size()), WriteMode::kDirect));
    filler.fill(*open.back(), files[i], std::max(1, options.threads), progress, stop);
  }
  for (auto& file : open) {  // last, so that no file's write-back holds up the making of the next
    file->sync();
    file->close();
  }
  if (files.size() > 1) write_text(fs, directory / "model.safetensors.index.json", pretty_json(index_of(files)));
  write_text(fs, directory / "config.json", pretty_json(config_of(preset, options.dtype)));
}

}  // namespace

std::vector<std::string_view> synth_presets() {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

std::uint64_t synth_bytes(const SynthOptions& options) {
  std::uint64_t total = 0;
  for (const TensorEntry& tensor : tensors_of(preset_of(options), options.dtype)) total += size_of(tensor);
  return total;
}

void synthesize(FileSystem& fs, const std::filesystem::path& directory, const SynthOptions& options,
                ProgressCounters& progress, const StopFlag& stop) {
  const std::uint64_t needed = synth_bytes(options);  // checks the options before anything is touched
  const std::filesystem::path out = without_trailing_slash(directory);
  require_unused(fs, out);
  std::filesystem::path partial = out;
  partial += ".partial";
  fs.remove_all(partial);
  fs.create_directory(partial);
  try {
    const std::uint64_t free = fs.free_bytes(partial);
    HALFQUAD_REQUIRE(free >= needed, kIo,
                     fmt::format("the model needs {} but only {} are free at {}", human_bytes(needed),
                                 human_bytes(free), halfquad::quoted(out.string())));
    write_model(fs, partial, options, progress, stop);
    fs.sync_directory(partial);
    fs.rename(partial, out);
  } catch (...) {
    fs.remove_all(partial);
    throw;
  }
  const std::filesystem::path parent = out.parent_path();
  fs.sync_directory(parent.empty() ? std::filesystem::path(".") : parent);
}

}  // namespace halfquad
