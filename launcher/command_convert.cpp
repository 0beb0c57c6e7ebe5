#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "launcher/commands.h"
#include "launcher/run_quantize.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/convert_model.h"
#include "sharding/enclosed_files.h"
#include "sharding/plain_model.h"
#include "sharding/quantized_model.h"
#include "sharding/source_model.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nLayers whose codes, scales and zeros the new format holds come out exactly as they went in. The others keep "
    "their\n"
    "grid as near as the format can, or are solved again from the dequantized weights where it has no such width, "
    "group\n"
    "or zero; the summary and the report say which, and how far their weights moved.\n"
    "\nExamples:\n"
    "  halfquad convert ./model-hqq4 ./model-ct --format compressed-tensors\n"
    "  halfquad convert ./model-hqq4 ./model.gguf\n"
    "  halfquad convert ./model.gguf ./model-mlx --format mlx --source ./model    names come from the source\n"
    "  mpirun -n 8 halfquad convert ./model-hqq4 ./model-mlx --format mlx\n"
    "\nNothing has the name OUT before it is complete; an interrupted job is continued by the same command.\n";

/// Of most layers.
DType usual_stored(const QuantizedModel& output) {
  DType best = output.layers().front().stored;
  std::ptrdiff_t most = 0;
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    const auto count = std::ranges::count(output.layers(), dtype, &StoredLayer::stored);
    if (count > most) best = dtype;
    most = std::max(most, count);
  }
  return best;
}

DType new_stored(const QuantizedModel& output, const SpecOptions& spec) {
  const DType usual = usual_stored(output);
  const auto allowed = spec.output_format().scale_dtypes();
  const bool keeps = spec.scale_dtype.empty() && std::ranges::find(allowed, usual) != allowed.end();
  return keeps ? usual : spec.stored();
}

struct ConvertOptions {
  QuantizeOptions job;
  std::string source;
};

PlainModel plain_model_of(const Context& context, const QuantizedModel& output, const ConvertOptions& options) {
  if (!options.source.empty()) return plain_model(output, open_source(context.fs, options.source));
  HALFQUAD_REQUIRE(
      output.format().keeps_names(), kUsage,
      fmt::format("{}: the tensors of a {} file have names and an order of its own; pass --source with the "
                  "checkpoint that it was made from",
                  quoted(options.job.model), output.format().name()));
  return plain_model(output);
}

/// Puts what lies inside the old output to the texts that the new one holds.
void add_enclosed(const Context& context, std::span<const EnclosedFile> files, const Format& format,
                  const Checkpoint& checkpoint, SourceTexts& texts) {
  const std::vector<std::string> wanted = format.wanted_texts(checkpoint);
  for (const EnclosedFile& file : files) {
    const bool wants = format.container() == Container::kHdf5 || std::ranges::find(wanted, file.name) != wanted.end();
    if (wants) texts.emplace(file.name, read_enclosed(context.fs, file));
  }
}

Job prepare_conversion(const Context& context, const ConvertOptions& options, const QuantizeOptions& job) {
  const QuantizedModel output(context.fs, job.model);
  const DType stored = new_stored(output, job.spec);
  const Format& format = job.spec.output_format();
  HALFQUAD_REQUIRE(!output.layers().empty(), kUsage, fmt::format("{} holds no quantized layer", quoted(job.model)));
  HALFQUAD_REQUIRE(format.keeps_names() || output.format().keeps_names(), kUsage,
                   fmt::format("{} is a {} file already", quoted(job.model), format.name()));
  ConvertedModel model = convert_model(output, plain_model_of(context, output, options), format, stored);
  const std::string folder = options.source.empty() ? job.model : options.source;
  model.checkpoint = std::move(model.checkpoint).beside(context.fs, folder);
  SourceTexts texts = read_texts(context.fs, model.checkpoint, format);
  std::vector<EnclosedFile> enclosed;
  if (options.source.empty()) enclosed = enclosed_files(context.fs, job.model);
  add_enclosed(context, enclosed, format, model.checkpoint, texts);
  OutputLayout layout(model.checkpoint, model.decisions, stored, job.spec.max_shard_bytes(), format, texts);
  Plan plan = make_plan(model.checkpoint, layout);
  return {
      std::move(model.checkpoint),
      std::move(model.decisions),
      std::move(texts),
      std::move(layout),
      std::move(plan),
      nullptr,
      ConvertedFrom{job.model, std::string(output.format().name()), std::move(model.changes), std::move(model.notes)},
      std::nullopt,
      std::move(enclosed)};
}

void add_format_options(CLI::App& app, SpecOptions& spec) {
  std::string names;
  for (const Format* format : formats()) names += fmt::format("{}{}", names.empty() ? "" : ", ", format->name());
  app.add_option("--format,-f", spec.format, "Kind of output: " + names)
      ->default_str("hqq, or as the name of OUT says")
      ->type_name("NAME");
  app.add_option("--scale-dtype", spec.scale_dtype, "Type of scales: f16, bf16, f32")
      ->default_str("as they are, where the format has it")
      ->type_name("TYPE");
  app.add_option("--max-shard-size", spec.max_shard_size, "Write several files of at most this size, as 5GB")
      ->type_name("SIZE");
}

}  // namespace

Command add_convert(CLI::App& root, const Context& context, const std::vector<std::string>& arguments) {
  auto options = std::make_shared<ConvertOptions>();
  QuantizeOptions& job = options->job;
  CLI::App* app = root.add_subcommand("convert", "Turn an output into another format, without the original weights");
  app->footer(kFooter);
  app->add_option("FROM", job.model, "What quantize wrote")->required()->type_name("");
  app->add_option("OUT", job.out, "Directory to create, or one .gguf, .h5 or .safetensors file")
      ->required()
      ->type_name("");
  app->add_option("--source", options->source, "Of a GGUF file: the checkpoint it was made from")->type_name("MODEL");
  add_output_options(*app, job);
  add_format_options(*app, job.spec);
  add_thread_option(*app, job.machine);
  add_memory_options(*app, job.machine);
  add_solver_options(*app, job.machine);
  add_rank_options(*app, job);
  add_message_options(*app, job.machine);
  add_monitor_options(*app, job.monitor);
  add_trace_option(*app, job);
  job.devices.devices = "none";
  std::weak_ptr<ConvertOptions> weak = options;
  job.prepare = [weak](const Context& at, const QuantizeOptions& chosen, const NonfiniteSearch& /*search*/) {
    return prepare_conversion(at, *weak.lock(), chosen);
  };
  return {app,
          [&context, options, &arguments] {
            options->job.single_file = names_single_file(options->job.out, options->job.spec);
            run_quantize(context, options->job, command_line(arguments));
          },
          /*with_ranks=*/true};
}

}  // namespace halfquad
