#include "launcher/options.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "launcher/engines.h"
#include "launcher/help_formatter.h"
#include "runtime/check.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "sharding/block_type.h"
#include "sharding/output_layout.h"
#include "sharding/vocabulary.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kDefaultMemory = 2ULL << 30;
constexpr std::uint64_t kRecipeLimit = 16 << 20;
constexpr int kMaxThreads = 4096;

constexpr char kMachine[] = "Machine";
constexpr char kMessages[] = "Messages";
constexpr char kNumerics[] = "Quantization";
constexpr char kSelection[] = "Which tensors";
constexpr char kTarget[] = "Size";
constexpr char kAdvanced[] = "Advanced";

std::int64_t parse_group_size(const std::string& text) {
  if (text == "row") return 0;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  HALFQUAD_REQUIRE(error == std::errc{} && end == text.data() + text.size() && value > 0, kUsage,
                   fmt::format("--group-size: {} is neither a positive number nor 'row'", quoted(text)));
  return value;
}

CodeWidth parse_bits(const std::string& text) {
  const std::optional<CodeWidth> width = code_width_from_name(text);
  HALFQUAD_REQUIRE(width.has_value(), kUsage,
                   fmt::format("--bits: {} is not one of 8, 6, 5, 4, 3, 2, 1.58, 1", quoted(text)));
  return *width;
}

/// A repeatable option that takes one value each time, so that it never swallows the operands after it.
CLI::Option* add_repeatable(CLI::App& app, const std::string& name, std::vector<std::string>& values,
                            const std::string& description) {
  return app.add_option(name, values, description)->allow_extra_args(false);
}

void add_numeric_options(CLI::App& app, SpecOptions& options) {
  app.add_option("--bits,-b", options.bits, "Bits of a code: 8 6 5 4 3 2 1.58 1")
      ->default_str("4")
      ->type_name("N")
      ->group(kNumerics);
  app.add_option("--group-size,-g", options.group_size, "Weights that share a scale and zero, or 'row'")
      ->default_str("64")
      ->type_name("N|row")
      ->group(kNumerics);
  app.add_option("--axis", options.axis, "1: groups along a row's inputs; 0: across the rows")
      ->default_str("1")
      ->check(quiet(CLI::IsMember({0, 1})))
      ->type_name("0|1")
      ->group(kNumerics);
  app.add_option("--solver", options.solver,
                 "als: least squares in turns with weighted columns, the best models; hqq: half-quadratic, as "
                 "published; rtn: round to nearest")
      ->default_str("als; hqq for --axis 0")
      ->check(quiet(CLI::IsMember({"hqq", "als", "rtn"})))
      ->type_name("NAME")
      ->group(kNumerics);
  app.add_option(
         "--importance", options.importance,
         "als: how much the errors of an input channel count: random (measured first, with random tokens, as the "
         "command importance does), weights (a guess from the channel's own), none (all the same), or FILE with what "
         "was measured: llama.cpp's imatrix, or safetensors with a vector for each module; auto is random for models "
         "that importance knows, else weights")
      ->default_str("auto")
      ->type_name("HOW|FILE")
      ->group(kNumerics);
  app.add_option("--importance-power", options.importance_power, "als: power taken of the importance")
      ->default_str("1")
      ->check(quiet(CLI::Range(0.0, 2.0)))
      ->type_name("P")
      ->group(kNumerics);
  app.add_option("--starts", options.starts, "als: ranges that every group is searched from")
      ->default_str("5")
      ->check(quiet(CLI::Range(1, QuantSpec::kMaxStarts)))
      ->type_name("N")
      ->group(kNumerics);
  app.add_option("--iters", options.iters, "Steps of hqq, or rounds of als from each start, at most")
      ->default_str("20; als 4")
      ->check(quiet(CLI::Range(1, QuantSpec::kMaxIters)))
      ->type_name("N")
      ->group(kNumerics);
  app.add_option("--round-zero", options.round_zero, "Round the start value of zero: auto (4 bit only), on, off")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "on", "off"})))
      ->type_name("WHEN")
      ->group(kNumerics);
  app.add_flag("--per-tensor", options.per_tensor, "One scale and zero for a whole tensor")->group(kNumerics);
  app.add_flag("--symmetric", options.symmetric, "Fix every zero at the middle code, for engines that want it so")
      ->group(kNumerics);
  app.add_option("--scale-dtype", options.scale_dtype, "Type that scales and zeros are stored in: f16, bf16, f32")
      ->default_str("f16")
      ->type_name("TYPE")
      ->group(kNumerics);
  app.add_option("--nonfinite", options.nonfinite, "NaN or infinity in a weight: error, zero, keep-original")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"error", "zero", "keep-original"})))
      ->type_name("POLICY")
      ->group(kNumerics);
}

void add_file_options(CLI::App& app, SpecOptions& options) {
  std::string names;
  for (const Format* format : formats()) names += fmt::format("{}{}", names.empty() ? "" : ", ", format->name());
  app.add_option("--format,-f", options.format, "Kind of output: " + names)
      ->default_str("hqq, or as the name of OUT says")
      ->type_name("NAME")
      ->group(kNumerics);
  app.add_option(
         "--type", options.type,
         "Instead of --bits and --group-size: blocks of GGUF, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0, and with their own search "
         "Q2_K Q3_K Q4_K Q5_K Q6_K; floating-point codes, mxfp4 and nvfp4 "
         "(compressed-tensors, gguf). Instead of --bits alone, for hdf5: codes that are places in a table, fp4-e2m1 "
         "fp3-e2m0 "
         "fp3-e1m1 nf4, and learned4 learned3, whose 16 or 8 values are fitted to each tensor")
      ->type_name("NAME")
      ->group(kNumerics);
  app.add_option("--mixture", options.mixture,
                 "A mixture of these as llama.cpp names it, embedding and output head included: Q4_K_M, Q3_K_L, ...")
      ->type_name("NAME")
      ->group(kNumerics);
  app.add_flag("--group-fallback", options.group_fallback,
               "Layers that the group size does not fit take a smaller one, instead of staying unquantized")
      ->group(kNumerics);
  app.add_option("--max-shard-size", options.max_shard_size,
                 "Several weight files of at most SIZE (5GB, 2GiB) and an index, instead of one file")
      ->default_str("one file, or 50GB where that would hold too many tensors")
      ->type_name("SIZE")
      ->group(kSelection);
}

void add_target_options(CLI::App& app, SpecOptions& options) {
  app.add_option("--target-size", options.target_size,
                 "Instead of --bits: the best bits, and groups unless given, with which all tensors of the output take "
                 "at most SIZE; two widths are mixed where that helps")
      ->type_name("SIZE")
      ->group(kTarget);
  app.add_option("--target-bpw", options.target_bpw,
                 "The same for the bits per quantized weight, scales and zeros included, such as 3.5")
      ->check(quiet(CLI::Range(0.01, 32.0)))
      ->type_name("BITS")
      ->group(kTarget);
  app.add_option("--embeddings", options.embeddings,
                 "Bits of token embedding and output head: 8, 6, or keep; for mlx, gguf and hdf5")
      ->default_str("keep, or as --mixture has it")
      ->check(quiet(CLI::IsMember({"8", "6", "keep"})))
      ->type_name("N|keep")
      ->group(kSelection);
}

void add_selection_options(CLI::App& app, SpecOptions& options) {
  add_repeatable(app, "--rule,-r", options.rules,
                 "Other settings for the tensors REGEX finds, such as 'down_proj=bits:3,group-size:32'; repeatable, "
                 "later rules win")
      ->type_name("REGEX=SPEC")
      ->group(kSelection);
  add_repeatable(app, "--skip,-s", options.skip, "Leave the tensors REGEX finds unquantized; repeatable")
      ->type_name("REGEX")
      ->group(kSelection);
  app.add_option("--recipe", options.recipe, "JSON file of defaults, rules and skips; options above go over it")
      ->type_name("FILE")
      ->group(kSelection);
}

}  // namespace

int MachineOptions::thread_count(int processes) const { return threads.value_or(fair_cores(processes)); }

std::uint64_t MachineOptions::memory_bytes(int processes) const {
  if (!memory.empty()) return parse_size_option(memory, "--memory");
  return std::min(kDefaultMemory, available_memory_bytes() / 2 / static_cast<std::uint64_t>(processes));
}

ReadMode MachineOptions::read_mode() const {
  if (direct_io == "on") return ReadMode::kDirect;
  return direct_io == "off" ? ReadMode::kBuffered : ReadMode::kAuto;
}

ProgressOptions MachineOptions::progress_options() const {
  return {.mode = progress_mode_from_name(progress),
          .format = format(),
          .interval = std::chrono::milliseconds(std::llround(1000 * progress_interval))};
}

std::function<std::unique_ptr<Solver>()> MachineOptions::solver_factory() const {
  if (backend == "reference") {
    HALFQUAD_REQUIRE(isa.empty(), kUsage, "--isa needs --backend simd: the reference backend has no SIMD target");
    return [] { return make_reference_solver(); };
  }
  const std::optional<std::string> target = isa.empty() ? std::nullopt : std::optional(isa);
  static_cast<void>(make_simd_solver(target));
  return [target] { return make_simd_solver(target); };
}

void add_thread_option(CLI::App& app, MachineOptions& options) {
  app.add_option("--threads,-t", options.threads, "Worker threads")
      ->default_str("all usable cores")
      ->check(quiet(CLI::Range(1, kMaxThreads)))
      ->type_name("N")
      ->group(kMachine);
}

void add_memory_options(CLI::App& app, MachineOptions& options) {
  app.add_option("--memory,-m", options.memory, "Budget of all buffers, such as 512MiB or 4GB")
      ->default_str("2GiB, or half of what is free")
      ->type_name("SIZE")
      ->group(kMachine);
  app.add_option("--direct-io", options.direct_io, "Past the page cache: auto, on, off")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "on", "off"})))
      ->type_name("WHEN")
      ->group(kMachine);
}

void add_solver_options(CLI::App& app, MachineOptions& options) {
  app.add_option("--backend", options.backend, "auto, simd, or reference (slow; the same bytes)")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "simd", "reference"})))
      ->type_name("NAME")
      ->group(kAdvanced);
  app.add_option("--isa", options.isa, "SIMD target instead of the fastest; halfquad --version lists them")
      ->type_name("NAME")
      ->group(kAdvanced);
}

void add_message_options(CLI::App& app, MachineOptions& options) {
  app.add_option("--progress", options.progress,
                 "auto, bar, plain (lines for a log file), ranks (a line for each rank too), none")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "bar", "plain", "ranks", "none"})))
      ->type_name("MODE")
      ->group(kMessages);
  app.add_option("--progress-interval", options.progress_interval,
                 "Seconds between lines of progress, and between writes of --status and --metrics")
      ->capture_default_str()
      ->check(quiet(CLI::Range(0.1, 86400.0)))
      ->type_name("SECONDS")
      ->group(kMessages);
  app.add_option("--log-level", options.log_level, "debug, info, warn, error, off")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"})))
      ->type_name("LEVEL")
      ->group(kMessages);
  app.add_option("--log-format", options.log_format,
                 "text, or json: messages, progress and errors as one JSON object a line")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"text", "json"})))
      ->type_name("FORM")
      ->group(kMessages);
}

void add_spec_options(CLI::App& app, SpecOptions& options) {
  add_numeric_options(app, options);
  add_target_options(app, options);
  add_selection_options(app, options);
  add_file_options(app, options);
}

Recipe SpecOptions::build_recipe(FileSystem& fs) const {
  Recipe built;
  if (!recipe.empty()) built = parse_recipe(read_text(fs, recipe, kRecipeLimit), recipe);
  HALFQUAD_REQUIRE(type.empty() || (bits.empty() && mixture.empty()), kUsage,
                   "--type says the bits: leave --bits and --mixture out");
  if (!type.empty()) {
    HALFQUAD_REQUIRE(apply_type(type, built.defaults), kUsage,
                     fmt::format("--type: {} is not {}", quoted(type), type_names()));
    HALFQUAD_REQUIRE(group_size.empty() || find_block_type(type) == nullptr, kUsage,
                     fmt::format("--type {} says the group size: leave --group-size out", type));
  }
  if (!bits.empty()) built.defaults.width = parse_bits(bits);
  if (!group_size.empty()) built.defaults.group_size = parse_group_size(group_size);
  if (axis) built.defaults.axis = axis;
  if (!solver.empty()) built.defaults.solver = solver_from_name(solver);
  if (iters) built.defaults.iters = iters;
  if (starts) built.defaults.starts = starts;
  if (!importance_file().empty()) {
    HALFQUAD_REQUIRE(
        fs.kind(importance) == FileKind::kFile, kUsage,
        fmt::format("--importance: {} is neither auto, random, weights, none nor a file", quoted(importance)));
    built.defaults.importance = Importance::kFile;
  } else if (wants_measuring()) {
    const bool recipe_says = importance.empty() && built.defaults.importance;
    if (measured && measured->file && !recipe_says) built.defaults.importance = Importance::kFile;
  } else {
    built.defaults.importance = importance_from_name(importance);
  }
  if (importance_power) built.defaults.importance_power = importance_power;
  if (round_zero != "auto") built.defaults.round_zero = round_zero == "on";
  if (per_tensor) built.defaults.channel_wise = false;
  for (const std::string& rule : rules) built.rules.push_back(parse_rule(rule));
  built.skip.insert(built.skip.end(), skip.begin(), skip.end());
  return built;
}

void SpecOptions::add_named(Recipe& built, const Checkpoint& checkpoint) const {
  const Format& chosen = output_format();
  if (!mixture.empty()) built.tensors = chosen.mixture(mixture, checkpoint);
  if (embeddings.empty() || embeddings == "keep") return;
  HALFQUAD_REQUIRE(
      holds_vocabulary(chosen.name()), kUsage,
      fmt::format("--embeddings: engines that load {} want embedding and output head as they are; leave it "
                  "out, or choose mlx, gguf or hdf5",
                  chosen.name()));
  SpecOverride spec;
  if (chosen.container() == Container::kGguf) {
    find_block_type(embeddings == "8" ? "Q8_0" : "Q6_K")->apply_to(spec);
  } else {
    spec.width = parse_bits(embeddings);
  }
  quantize_vocabulary(built, checkpoint, spec);
}

std::string SpecOptions::importance_file() const {
  return wants_measuring() || importance == "none" || importance == "weights" ? std::string() : importance;
}

bool SpecOptions::wants_measuring() const {
  return importance.empty() || importance == "auto" || importance == "random";
}

std::uint64_t SpecOptions::max_shard_bytes() const {
  return max_shard_size.empty() ? OutputLayout::kOneFile : parse_size_option(max_shard_size, "--max-shard-size");
}

const Format& SpecOptions::output_format() const {
  if (format.empty()) {
    if (type.empty()) return mixture.empty() ? hqq_format() : *format_named("gguf");
    const BlockType* named = find_block_type(type);
    if (named == nullptr) return *format_named("hdf5");
    return *format_named(named->grid == FloatGrid::kNone ? "gguf" : "compressed-tensors");
  }
  const Format* found = format_named(format);
  HALFQUAD_REQUIRE(found != nullptr, kUsage, fmt::format("--format: there is no format {}", quoted(format)));
  return *found;
}

DType SpecOptions::stored() const {
  const std::span<const DType> known = output_format().scale_dtypes();
  if (scale_dtype.empty()) return known.front();
  const DType dtype = float_dtype_from_name(scale_dtype, "--scale-dtype");
  HALFQUAD_REQUIRE(std::find(known.begin(), known.end(), dtype) != known.end(), kUsage,
                   fmt::format("--scale-dtype: {} has no {} scales", output_format().name(), name_of(dtype)));
  return dtype;
}

SpecLimits SpecOptions::limits() const {
  const Format& chosen = output_format();
  return {.adapt =
              [&chosen, symmetric = symmetric](QuantSpec& spec, std::int64_t cols) {
                if (symmetric) spec.zeros = ZeroKind::kSymmetric;
                chosen.adapt(spec, cols);
              },
          .why_not = [&chosen](const QuantSpec& spec, std::int64_t rows,
                               std::int64_t cols) { return chosen.why_not(spec, rows, cols); },
          .group_fallback = group_fallback};
}

DType float_dtype_from_name(const std::string& name, const std::string& option) {
  std::string upper = name;
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  const std::optional<DType> dtype = dtype_from_name(upper);
  HALFQUAD_REQUIRE(dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32, kUsage,
                   fmt::format("{}: {} is not one of f16, bf16, f32", option, quoted(name)));
  return *dtype;
}

std::uint64_t parse_size_option(const std::string& text, const std::string& option) {
  const std::optional<std::uint64_t> bytes = parse_bytes(text);
  HALFQUAD_REQUIRE(bytes.has_value() && *bytes > 0, kUsage,
                   fmt::format("{}: {} is not a size such as 512MiB or 4GB", option, quoted(text)));
  return *bytes;
}

}  // namespace halfquad
