#include "launcher/output_errors.h"

#include <algorithm>
#include <charconv>
#include <map>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "kernels/blas_feature.h"
#include "launcher/help_formatter.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::int64_t kMostRandomSamples = 1 << 20;

/// The number that `text` is; nothing when it must be a file's name.
std::optional<std::int64_t> sample_count(const std::string& text) {
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  HALFQUAD_REQUIRE(error == std::errc{} && count >= 1 && count <= kMostRandomSamples, kUsage,
                   fmt::format("--activations: {} is not a number from 1 to {} (nor a file; one of that name is ./{})",
                               quoted(text), kMostRandomSamples, one_line(text)));
  return count;
}

/// What the layers that have an error come to.
struct Overview {
  std::size_t measured = 0;
  std::size_t without_samples = 0;
  double mean = 0;
  double worst = -1;
  std::size_t worst_layer = 0;
};

Overview overview_of(const OutputErrorReport& report) {
  Overview out;
  for (std::size_t i = 0; i < report.errors.size(); ++i) {
    if (report.errors[i].samples == 0) ++out.without_samples;
    const std::optional<double> relative = report.errors[i].relative();
    if (!relative) continue;
    ++out.measured;
    out.mean += *relative;
    if (*relative > out.worst) {
      out.worst = *relative;
      out.worst_layer = i;
    }
  }
  if (out.measured > 0) out.mean /= static_cast<double>(out.measured);
  return out;
}

}  // namespace

void add_activation_options(CLI::App& app, ActivationOptions& options) {
  app.add_option("--activations", options.activations,
                 "Also the error of each layer's outputs, for N random inputs or those in FILE")
      ->type_name("N|FILE");
  app.add_option("--activations-seed", options.seed, "Seed of random inputs")->default_str("0")->type_name("SEED");
  app.add_option("--devices", options.devices.devices,
                 "GPUs for the products of --activations: auto, none, all, or a list such as 0,2")
      ->capture_default_str()
      ->type_name("WHICH")
      ->group("Machine");
}

OutputErrorRun::OutputErrorRun(FileSystem& fs, const ActivationOptions& options, const OutputErrorTools& tools,
                               const QuantizedModel& output, const Checkpoint& source)
    : fs_(fs), output_(output), source_(source) {
  HALFQUAD_REQUIRE(!options.activations.empty(), kUsage, "--activations-seed needs --activations N");
  options_.threads = tools.machine.thread_count();
  options_.memory_bytes = tools.machine.memory_bytes();
  options_.read_mode = tools.machine.read_mode();
  if (const std::optional<std::int64_t> count = sample_count(options.activations)) {
    const std::uint64_t seed = options.seed.value_or(0);
    report_.inputs = fmt::format("{} random inputs (seed {})", *count, seed);
    activations_ = make_random_activations(*count, seed);
  } else {
    HALFQUAD_REQUIRE(!options.seed, kUsage, "--activations-seed needs --activations N, not a file");
    report_.inputs = fmt::format("the inputs in {}", quoted(options.activations));
    activations_ = open_activations(fs, options.activations, options_.read_mode, output.layers());
  }
  choose_gemm(options.devices, tools);
}

void OutputErrorRun::choose_gemm(const DeviceOptions& options, const OutputErrorTools& tools) {
  const Feature blas = blas_feature();
  const std::function<std::unique_ptr<Gemm>()> host = blas.available ? make_blas_gemm : make_plain_gemm;
  const auto use_host = [&] {
    if (!blas.available) report_.no_blas = blas.detail;
    options_.make_gemm = host;
    report_.gemm = host()->name();
  };
  const FoundDevices found = find_devices(options, tools.machine, tools.warn);
  if (found.devices.empty()) return use_host();
  try {
    report_.gemm = found.module->make_gemm(found.devices.front().index)->name();
  } catch (const Error& error) {
    if (options.devices != "auto") throw;
    tools.warn(fmt::format("{}; output errors are computed on the host", error.what()));
    return use_host();
  }
  // Workers take the devices in turn. One whose device fails goes on by itself.
  options_.make_gemm = [found, host, warn = tools.warn, next = std::size_t{0}]() mutable {
    const auto failed = [warn](const Error& error) {
      warn(fmt::format("{}; its products are computed on the host", error.what()));
    };
    const int device = found.devices[next++ % found.devices.size()].index;
    try {
      return make_fallback_gemm(found.module->make_gemm(device), host(), failed);
    } catch (const Error& error) {
      failed(error);
      return host();
    }
  };
}

std::uint64_t OutputErrorRun::source_bytes() const {
  std::uint64_t bytes = 0;
  for (const StoredLayer& layer : output_.layers()) {
    const SourceTensor* original = source_.find(layer.module + ".weight");
    if (original != nullptr && activations_->samples(layer) > 0) bytes += original->bytes;
  }
  return bytes;
}

OutputErrorReport OutputErrorRun::measure(std::span<const LayerError> verified, ProgressCounters& progress,
                                          const StopFlag& stop) const {
  std::map<std::string_view, const StoredLayer*> stored;
  for (const StoredLayer& layer : output_.layers()) stored[layer.module] = &layer;
  std::vector<OutputErrorLayer> layers;
  for (const LayerError& layer : verified) {
    layers.push_back({.layer = stored.at(layer.module), .original = source_.find(layer.module + ".weight")});
  }
  OutputErrors measured = measure_output_errors(fs_, output_, source_, layers, *activations_, options_, progress, stop);
  OutputErrorReport report = report_;
  report.errors = std::move(measured.layers);
  report.bytes_read = measured.bytes_read;
  return report;
}

std::string output_error_text(const OutputErrorReport& report, std::span<const LayerError> layers) {
  const Overview all = overview_of(report);
  std::string text = fmt::format("  output error for {}, by {}: ", report.inputs, report.gemm);
  if (all.measured == 0) {
    text += "no layer has one\n";
  } else {
    text +=
        fmt::format("mean {:.5f}, worst {:.5f} in {}\n", all.mean, all.worst, quoted(layers[all.worst_layer].module));
  }
  if (all.without_samples > 0) {
    text +=
        fmt::format("  {} of {} layers have no inputs there and were left out\n", all.without_samples, layers.size());
  }
  if (report.no_blas) text += fmt::format("  (a BLAS would be several times faster; {})\n", one_line(*report.no_blas));
  return text;
}

json::object output_error_json(const OutputErrorReport& report, std::span<const LayerError> layers) {
  const Overview all = overview_of(report);
  json::object out = {{"inputs", report.inputs},
                      {"gemm", report.gemm},
                      {"tolerance", kOutputErrorTolerance},
                      {"layers", all.measured},
                      {"layers_without_inputs", all.without_samples},
                      {"mean", nullptr},
                      {"worst", nullptr},
                      {"worst_module", nullptr}};
  if (all.measured > 0) {
    out["mean"] = all.mean;
    out["worst"] = all.worst;
    out["worst_module"] = layers[all.worst_layer].module;
  }
  return out;
}

}  // namespace halfquad
