#include <algorithm>
#include <map>
#include <memory>
#include <ostream>
#include <stdexcept>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/regex.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "io/safetensors_header.h"
#include "launcher/commands.h"
#include "launcher/histograms.h"
#include "launcher/inventory.h"
#include "launcher/options.h"
#include "launcher/summary.h"
#include "launcher/table.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/code_histogram.h"
#include "sharding/quantized_model.h"
#include "sharding/stored_tile.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr char kFooter[] =
    "\nExamples:\n"
    "  halfquad inspect ./model\n"
    "  halfquad inspect ./model-hqq4 --histograms --tensor 'layers\\.0\\.'    how often each code is used\n"
    "  halfquad inspect ./model-hqq4/model.safetensors --json\n";

struct InspectOptions {
  std::string path;
  bool as_json = false;
  bool histograms = false;
  std::string tensor;
  MachineOptions machine;
};

struct Contents {
  Checkpoint checkpoint;
  std::map<std::string, std::string> metadata;
  std::optional<QuantizedModel> output;  ///< When it holds quantized layers.
  std::string defect;                    ///< Why they could not be read, if so.
};

bool has_quantized_layers(const Checkpoint& checkpoint) {
  return std::ranges::any_of(formats(), [&](const Format* format) { return format->made(checkpoint); });
}

/// An output in a container that only a format knows.
bool is_other_container(FileSystem& fs, const std::string& path) {
  return std::ranges::any_of(formats(), [&](const Format* format) { return format->open(fs, path).has_value(); });
}

Contents read_contents(FileSystem& fs, const std::string& path) {
  if (is_other_container(fs, path)) {
    QuantizedModel output(fs, path);
    Checkpoint checkpoint = output.checkpoint();
    return {std::move(checkpoint), {}, std::move(output), {}};
  }
  Contents contents{Checkpoint(fs, path), {}, {}, {}};
  for (const SourceFile& file : contents.checkpoint.files()) {
    if (!file.name.ends_with(".safetensors")) continue;
    const auto opened = fs.open_read(file.path, ReadMode::kBuffered);
    contents.metadata.merge(read_safetensors_header(*opened, file.name).metadata);
  }
  if (!has_quantized_layers(contents.checkpoint)) return contents;
  try {
    contents.output.emplace(fs, path);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    contents.defect = error.what();
  }
  return contents;
}

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::string layers_text(const QuantizedModel& output) {
  Table table("llll", {"layer", "shape", "spec", "scale"});
  for (const StoredLayer& layer : output.layers()) {
    table.add_row({quoted(layer.module), shape_text({layer.rows, layer.cols}), describe(layer.spec),
                   std::string(name_of(layer.stored))});
  }
  return table.text(0);
}

std::string inspect_text(const Contents& contents) {
  const Checkpoint& checkpoint = contents.checkpoint;
  Table table("llrr", {"tensor", "dtype", "shape", "bytes"});
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    table.add_row({quoted(tensor.name), std::string(name_of(tensor.dtype)), shape_text(tensor.shape),
                   fmt::format("{}", tensor.bytes)});
  }
  std::string text = table.text(0);
  if (contents.output) text += "\n" + layers_text(*contents.output);
  if (!contents.defect.empty()) text += fmt::format("\nnot a complete output: {}\n", contents.defect);
  text += '\n';
  for (const auto& [key, value] : contents.metadata)
    text += fmt::format("metadata {} = {}\n", quoted(key), quoted(value));
  std::uint64_t elements = 0;
  for (const SourceTensor& tensor : checkpoint.tensors()) elements += static_cast<std::uint64_t>(tensor.elements());
  text += fmt::format("{} tensors in {} files, {} elements, {}\n", checkpoint.tensors().size(),
                      checkpoint.files().size(), human_count(elements), human_bytes(checkpoint.tensor_bytes()));
  return text;
}

json::object layer_json(const StoredLayer& layer) {
  return {{"module", layer.module},
          {"shape", json::array{layer.rows, layer.cols}},
          {"bits", name_of(layer.spec.width)},
          {"grid", layer.spec.grid == FloatGrid::kNone ? json::value(nullptr) : json::value(name_of(layer.spec.grid))},
          {"group_size", layer.tiles.grouped().group_elems},
          {"axis", layer.spec.axis},
          {"per_tensor", !layer.spec.channel_wise},
          {"scale_dtype", name_of(layer.stored)}};
}

json::object inspect_json(const Contents& contents) {
  const Checkpoint& checkpoint = contents.checkpoint;
  json::array tensors;
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    tensors.push_back({{"name", tensor.name},
                       {"dtype", name_of(tensor.dtype)},
                       {"shape", json::array(tensor.shape.begin(), tensor.shape.end())},
                       {"bytes", tensor.bytes},
                       {"file", checkpoint.files()[static_cast<std::size_t>(tensor.file)].name},
                       {"offset", tensor.offset}});
  }
  json::array layers;
  if (contents.output) {
    for (const StoredLayer& layer : contents.output->layers()) layers.push_back(layer_json(layer));
  }
  json::object metadata;
  for (const auto& [key, value] : contents.metadata) metadata[key] = value;
  json::object object{{"format", "halfquad-inspect"},       {"version", 1},
                      {"files", checkpoint.files().size()}, {"tensor_bytes", checkpoint.tensor_bytes()},
                      {"metadata", std::move(metadata)},    {"tensors", std::move(tensors)},
                      {"layers", std::move(layers)}};
  if (!contents.defect.empty()) object["defect"] = contents.defect;
  return object;
}

/// The layers whose names `pattern` finds.
std::vector<std::size_t> layers_named(const QuantizedModel& output, const std::string& pattern) {
  boost::regex regex;
  try {
    regex.assign(pattern, boost::regex::perl);
  } catch (const std::runtime_error& error) {
    throw Error(ErrorCode::kUsage,
                fmt::format("--tensor: {} is not a valid regular expression: {}", quoted(pattern), error.what()));
  }
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < output.layers().size(); ++i) {
    if (boost::regex_search(output.layers()[i].module, regex)) found.push_back(i);
  }
  HALFQUAD_REQUIRE(!found.empty(), kUsage,
                   fmt::format("--tensor: {} finds none of the {} quantized layers; the first is {}", quoted(pattern),
                               output.layers().size(), quoted(output.layers().front().module)));
  return found;
}

std::vector<CodeHistogram> count_codes(const Context& context, const InspectOptions& options,
                                       const Contents& contents) {
  HALFQUAD_REQUIRE(contents.output && !contents.output->layers().empty(), kUsage,
                   fmt::format("--histograms: {} holds no quantized layer{}", quoted(options.path),
                               contents.defect.empty() ? "" : " that could be read: " + contents.defect));
  const QuantizedModel& output = *contents.output;
  const std::vector<std::size_t> layers = layers_named(output, options.tensor);
  ProgressCounters progress;
  ProgressTotals totals;
  totals.tensors = layers.size();
  for (const std::size_t layer : layers) {
    totals.source_bytes += StoredTileReader::layer_bytes(output, output.layers()[layer]);
  }
  ProgressMeter meter(progress, totals, options.machine.progress_options(), "counting codes");
  std::vector<CodeHistogram> histograms =
      code_histograms(context.fs, output, layers,
                      {options.machine.thread_count(), options.machine.memory_bytes(), options.machine.read_mode()},
                      progress, context.stop);
  meter.finish();
  return histograms;
}

void inspect(const Context& context, const InspectOptions& options) {
  HALFQUAD_REQUIRE(options.histograms || options.tensor.empty(), kUsage, "--tensor chooses layers for --histograms");
  const Contents contents = read_contents(context.fs, options.path);
  std::vector<CodeHistogram> histograms;
  if (options.histograms) histograms = count_codes(context, options, contents);
  if (!options.as_json) {
    context.out << inspect_text(contents);
    if (options.histograms) context.out << histograms_text(*contents.output, histograms);
    return;
  }
  json::object object = inspect_json(contents);
  if (options.histograms) object["histograms"] = histograms_json(*contents.output, histograms);
  context.out << pretty_json(object);
}

}  // namespace

Command add_inspect(CLI::App& root, const Context& context) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* app = root.add_subcommand("inspect", "List what is in a checkpoint or an output");
  app->footer(kFooter);
  app->add_option("PATH", options->path, "A directory or a .safetensors file")->required()->type_name("");
  app->add_flag("--json", options->as_json, "Print JSON");
  app->add_flag("--histograms", options->histograms, "Count how often each code of the quantized layers is used");
  app->add_option("--tensor", options->tensor, "Only of the layers REGEX finds")->type_name("REGEX");
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_message_options(*app, options->machine);
  return {app, [&context, options] { inspect(context, *options); }};
}

}  // namespace halfquad
