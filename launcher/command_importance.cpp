#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "io/block_digest.h"
#include "io/output_directory.h"
#include "launcher/cli.h"
#include "launcher/commands.h"
#include "launcher/environment.h"
#include "launcher/exit_code.h"
#include "launcher/help_formatter.h"
#include "launcher/measurement.h"
#include "launcher/options.h"
#include "launcher/side_files.h"
#include "runtime/check.h"
#include "runtime/log.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "sharding/forward/forward_pass.h"
#include "sharding/forward/rank_exchange.h"
#include "sharding/forward/routing.h"
#include "sharding/forward/text_tokens.h"
#include "sharding/source_model.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nRuns random tokens through the model in fp32, layer by layer, and writes the mean square of every input "
    "channel\n"
    "of every linear layer: how much errors in that column of the weights count. No data is needed. The model is\n"
    "streamed and never loaded; OUT has the same bytes for any number of ranks and threads.\n"
    "Known are the model types llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe, gemma, gemma2, gemma3 and\n"
    "phi3; others are refused.\n"
    "With --text, sequences begin with the start token of models that have one, which counts as one of --tokens.\n"
    "\nExamples:\n"
    "  halfquad importance ./model ./importance.safetensors\n"
    "  halfquad quantize   ./model ./model-hqq4 --importance ./importance.safetensors    what the file is for\n"
    "  halfquad importance ./model ./importance.safetensors --text ./text.txt            for those who have data\n"
    "  mpirun -n 8 halfquad importance ./model ./importance.safetensors                  by eight processes\n";

constexpr char kFileName[] = "importance.safetensors";
constexpr std::int64_t kMostTokens = 1 << 20;

struct ImportanceOptions {
  std::string model, out;
  std::optional<std::int64_t> tokens, length;
  std::uint64_t seed = 0;
  std::string text, tokens_file;
  bool overwrite = false;
  MachineOptions machine;
};

/// Tokens, and what OUT's metadata says of where they come from.
struct GivenTokens {
  TokenBatch batch;
  std::map<std::string, std::string> about;
};

/// The metadata of OUT, without what is known only later. Nothing in it may depend on how the work is divided.
std::map<std::string, std::string> describe(const GivenTokens& tokens, const Checkpoint& checkpoint) {
  std::map<std::string, std::string> about = measurement_metadata(checkpoint, tokens.batch);
  about.merge(std::map(tokens.about));
  return about;
}

std::string digest_of(std::span<const std::byte> bytes) { return fmt::format("{:016x}", BlockDigest::hash(bytes)); }

GivenTokens make_random(const ImportanceOptions& options, std::int64_t vocabulary) {
  RandomTokens what{.seed = options.seed};
  what.tokens = options.tokens.value_or(what.tokens);
  what.length = options.length.value_or(what.length);
  GivenTokens made{random_tokens(what, vocabulary), {}};
  add_random_tokens(made.about, what);
  return made;
}

GivenTokens tokenize(const Context& context, const ImportanceOptions& options, const Checkpoint& checkpoint,
                     std::int64_t vocabulary) {
  TextTokens what{.file = options.text};
  what.tokens = options.tokens.value_or(what.tokens);
  what.length = options.length.value_or(what.length);
  const std::string json = read_tokenizer_json(context.fs, checkpoint);
  TokenBatch batch = text_tokens(context.fs, what, Tokenizer(json), vocabulary);
  std::map<std::string, std::string> about = {
      {"command", fmt::format("halfquad importance --text --tokens {} --length {}", what.tokens, what.length)},
      {"tokens_digest", digest_of(std::as_bytes(std::span(batch.ids)))},
      {"tokenizer_digest", digest_of(std::as_bytes(std::span(json)))}};
  return {std::move(batch), std::move(about)};
}

GivenTokens read_numbers(const Context& context, const ImportanceOptions& options, std::int64_t vocabulary) {
  TokenBatch batch = read_tokens(context.fs, options.tokens_file, vocabulary);
  HALFQUAD_REQUIRE(batch.tokens() <= kMostTokens, kUsage,
                   fmt::format("{} holds {} tokens; at most {} are run at once", quoted(options.tokens_file),
                               batch.tokens(), kMostTokens));
  std::map<std::string, std::string> about = {{"command", "halfquad importance --tokens-file"},
                                              {"tokens_digest", digest_of(std::as_bytes(std::span(batch.ids)))}};
  return {std::move(batch), std::move(about)};
}

Subject prepare(const Context& context, const ImportanceOptions& options) {
  Checkpoint checkpoint = open_source(context.fs, options.model);
  DecoderModel model = bind_decoder(checkpoint);
  GivenTokens tokens = !options.text.empty()          ? tokenize(context, options, checkpoint, model.vocabulary())
                       : !options.tokens_file.empty() ? read_numbers(context, options, model.vocabulary())
                                                      : make_random(options, model.vocabulary());
  std::map<std::string, std::string> metadata = describe(tokens, checkpoint);
  return {std::move(checkpoint), std::move(model), std::move(tokens.batch), std::move(metadata)};
}

/// Throws kUsage on all ranks when one was told something else, or has another model.
void require_agreement(const Subject& mine, RankExchange& exchange) {
  const std::string text = mine.text();
  const auto bytes = std::as_bytes(std::span(text));
  const auto all = exchange.all_gather({bytes.begin(), bytes.end()});
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    HALFQUAD_REQUIRE(
        all[rank] == all[0], kUsage,
        fmt::format("ranks 0 and {} do not measure the same: give all the same model, options and version", rank));
  }
}

std::string summary(const ImportanceOptions& options, const Subject& job, const ModelPower& power, double seconds) {
  std::string text = fmt::format(
      "{}: mean squares of the inputs of {} linear layers, {} of {} tokens in {} sequences, "
      "{:.1f} s\n",
      quoted(options.out), power.modules.size(), job.model.config.model_type, job.batch.tokens(), job.batch.sequences(),
      seconds);
  if (power.filled_experts > 0) {
    text += fmt::format(
        "  {} of {} experts were sent fewer than {} tokens, so that those next in their favour were "
        "measured too; more --tokens help\n",
        power.filled_experts, power.experts, std::min(kFewestExpertTokens, job.batch.tokens()));
  }
  return text;
}

void lead(const Context& context, const ImportanceOptions& options, RankExchange& exchange, int processes) {
  const auto start = std::chrono::steady_clock::now();
  OutputDirectory out(context.fs, options.out, options.model, options.overwrite ? Overwrite::kYes : Overwrite::kNo,
                      Leftover::kDiscard, OutputDirectory::SingleFile{kFileName, ""});
  std::optional<Subject> job;
  ModelPower power;
  fill_and_commit(out, [&] {
    job.emplace(prepare(context, options));
    require_agreement(*job, exchange);
    power = measure_on_host(context, options.machine, {*job, processes}, exchange);
    add_experts(job->metadata, power);
    write_text(context.fs, out.path_of(kFileName), importance_file(power, job->metadata));
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  context.out << summary(options, *job, power, seconds);
}

void follow(const Context& context, const ImportanceOptions& options, RankExchange& exchange, int processes) {
  const Subject job = prepare(context, options);
  require_agreement(job, exchange);
  static_cast<void>(measure_on_host(context, options.machine, {job, processes}, exchange));
}

void run_importance(const Context& context, const ImportanceOptions& options) {
  if (const auto hint = connection_hint(context.environment)) Log(options.machine.level()).warn(*hint);
  const std::unique_ptr<Communicator> communicator = join_job(context.environment);
  RankExchange exchange(*communicator, host_name(), context.stop);
  try {
    (communicator->rank() == 0 ? lead : follow)(context, options, exchange, communicator->local_size());
    static_cast<void>(exchange.all_gather({}));  // whether OUT was written is how all ranks end
  } catch (const Error& error) {
    exchange.fail(error);
    if (communicator->size() == 1) throw;
    // While the ranks are still joined: the first that ends in error makes mpirun kill the rest.
    if (communicator->rank() == 0) report_error(context, error);
    throw QuietExit{exit_code(error.code())};
  }
}

}  // namespace

Command add_importance(CLI::App& root, const Context& context) {
  auto options = std::make_shared<ImportanceOptions>();
  CLI::App* app =
      root.add_subcommand("importance", "Measure how much each input channel of a model counts, without data");
  app->footer(kFooter);
  app->add_option("MODEL", options->model, "Checkpoint: a Hugging Face directory with config.json")
      ->required()
      ->type_name("");
  app->add_option("OUT", options->out, "File to create: for each module a vector, as safetensors")
      ->required()
      ->type_name("");
  app->add_flag("--overwrite", options->overwrite, "Replace OUT once the new file is complete");
  CLI::Option* tokens = app->add_option("--tokens", options->tokens,
                                        fmt::format("Tokens in all (default: {} random ones, {} of a text)",
                                                    RandomTokens().tokens, TextTokens().tokens))
                            ->check(quiet(CLI::Range(std::int64_t{1}, kMostTokens)))
                            ->type_name("N");
  CLI::Option* length = app->add_option("--length", options->length,
                                        fmt::format("Tokens of one sequence (default: {} random ones, {} of a text)",
                                                    RandomTokens().length, TextTokens().length))
                            ->check(quiet(CLI::Range(std::int64_t{1}, kMostTokens)))
                            ->type_name("N");
  CLI::Option* seed =
      app->add_option("--seed", options->seed, "Of the random tokens")->capture_default_str()->type_name("N");
  CLI::Option* text =
      app->add_option(
             "--text", options->text,
             "UTF-8 text to run instead of random tokens, by the model's tokenizer.json; the first tokens are taken")
          ->excludes(seed)
          ->type_name("FILE");
  app->add_option("--tokens-file", options->tokens_file,
                  "Token numbers to run instead, a sequence a line, as the model's tokenizer makes them from text")
      ->excludes(tokens)
      ->excludes(length)
      ->excludes(seed)
      ->excludes(text)
      ->type_name("FILE");
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  app->add_option("--isa", options->machine.isa,
                  "SIMD target instead of the fastest; halfquad --version lists them (the same bytes)")
      ->type_name("NAME")
      ->group("Advanced");
  add_message_options(*app, options->machine);
  return {app, [&context, options] { run_importance(context, *options); }, /*with_ranks=*/true};
}

}  // namespace halfquad
