#include "launcher/measured_importance.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "io/block_digest.h"
#include "io/json.h"
#include "io/memory_read_file.h"
#include "io/output_directory.h"
#include "io/safetensors_header.h"
#include "launcher/measurement.h"
#include "runtime/check.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "sharding/resume.h"
#include "sharding/rules.h"
#include "sharding/source_model.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kLongestFile = 16ULL << 30;

/// What this rank has to say before anything is measured.
struct Findings {
  std::optional<Subject> subject;
  std::string why_not;  ///< Nothing, or why a layer that wants it is not weighted by what could be measured.

  /// The same on all ranks when they measure the same.
  [[nodiscard]] std::string text() const { return subject ? subject->text() : std::string(); }
};

}  // namespace

SpecOptions to_be_measured(SpecOptions spec) {
  auto later = std::make_shared<MeasuredImportance>();
  later->file = std::make_shared<const std::string>();
  spec.measured = std::move(later);
  return spec;
}

namespace {

bool wants_measured(const Context& context, const Checkpoint& checkpoint, const SpecOptions& spec) {
  const SpecOptions given = to_be_measured(spec);
  Recipe recipe = given.build_recipe(context.fs);
  given.add_named(recipe, checkpoint);
  const std::vector<Decision> decisions = decide(checkpoint, recipe, given.limits());
  return std::ranges::any_of(decisions, [](const Decision& decision) {
    return decision.quantize() && decision.spec.weighted() && decision.spec.importance == Importance::kFile;
  });
}

/// Whether a job wants to know, and what it would run. Throws kIo: what a file system does must not decide whether
/// anything is measured.
Findings look(const Context& context, const std::filesystem::path& model_path, const SpecOptions& spec) {
  Findings found;
  if (!spec.wants_measuring()) return found;
  const bool asked = spec.importance == "random";
  std::optional<Checkpoint> checkpoint;
  try {
    checkpoint.emplace(open_source(context.fs, model_path));
    if (!wants_measured(context, *checkpoint, spec)) {
      HALFQUAD_REQUIRE(!asked, kUsage, "no layer would be weighted by --importance random: it needs --solver als");
      return found;
    }
  } catch (const Error& error) {
    if (asked || error.code() == ErrorCode::kIo) throw;
    return found;  // whoever prepares the job meets it again, and says it in the words that belong there
  }
  try {
    DecoderModel model = bind_decoder(*checkpoint);
    TokenBatch batch = random_tokens(kJobTokens, model.vocabulary());
    std::map<std::string, std::string> metadata = measurement_metadata(*checkpoint, batch);
    add_random_tokens(metadata, kJobTokens);
    found.subject = Subject{std::move(*checkpoint), std::move(model), std::move(batch), std::move(metadata)};
  } catch (const Error& error) {
    if (asked || error.code() == ErrorCode::kIo) throw;
    found.why_not = error.what();
  }
  return found;
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// Whether all ranks say the same.
bool all_say(RankExchange& exchange, const std::string& mine) {
  const auto all = exchange.all_gather(bytes_of(mine));
  return std::ranges::all_of(all, [&](const auto& text) { return text == all[0]; });
}

/// What an interrupted run of this job measured, when this rank sees it whole.
std::optional<std::string> left_behind(const Context& context, const QuantizeOptions& options, const Subject& subject) {
  if (options.fresh) return std::nullopt;
  const std::filesystem::path path = partial_path(options.out) / kPrivateFolder / kMeasuredName;
  try {
    if (context.fs.kind(path) != FileKind::kFile) return std::nullopt;
    std::string text = read_text(context.fs, path, kLongestFile);
    MemoryReadFile file(text);
    std::map<std::string, std::string> metadata = read_safetensors_header(file, path.string()).metadata;
    std::erase_if(metadata, [&](const auto& entry) { return !subject.metadata.contains(entry.first); });
    if (metadata == subject.metadata) return text;
  } catch (const Error&) {  // torn, or gone in this moment: it is measured again
  }
  return std::nullopt;
}

std::string measure(const Context& context, const QuantizeOptions& options, Subject& subject, RankExchange& exchange,
                    int processes, JobMonitor* monitor) {
  try {
    Measurement what{subject, processes, monitor};
    what.zero_nonfinite = true;  // whether such weights are refused is for the job, which may keep theirs as they are
    ModelPower power = measure_on_host(context, options.machine, what, exchange);
    add_experts(subject.metadata, power);
    return importance_file(power, subject.metadata);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    throw Error(error.code(), fmt::format("measuring the inputs of the layers takes more than {}: {}; pass a larger "
                                          "--memory, or --importance weights, which measures nothing",
                                          human_bytes(options.machine.memory_bytes(processes)), error.what()));
  }
}

std::shared_ptr<const MeasuredImportance> measured(const Context& context, const QuantizeOptions& options,
                                                   RankExchange& exchange, int processes, JobMonitor* monitor) {
  const auto start = std::chrono::steady_clock::now();
  Findings found = options.measures ? look(context, options.model, options.spec) : Findings();
  HALFQUAD_REQUIRE(
      !found.subject || exchange.rank() != 0 || options.overwrite || context.fs.kind(options.out) == FileKind::kMissing,
      kUsage, fmt::format("{} exists; choose another OUT or pass --overwrite", quoted(options.out)));
  auto result = std::make_shared<MeasuredImportance>();
  result->why_not = found.why_not;
  if (!all_say(exchange, found.text())) {
    // The ranks were told different things, which the job itself refuses when it compares what they are about to do.
    result->disagreeing = found.text();
    return result;
  }
  if (!found.subject) return result;
  Subject& subject = *found.subject;
  std::optional<std::string> file = left_behind(context, options, subject);
  const std::string seen = file ? fmt::format("{:016x}", BlockDigest::hash(std::as_bytes(std::span(*file)))) : "";
  result->was_there = all_say(exchange, seen) && file;
  if (!result->was_there) file = measure(context, options, subject, exchange, processes, monitor);
  result->file = std::make_shared<const std::string>(std::move(*file));
  result->about = fmt::format("{} random tokens in sequences of {}", kJobTokens.tokens, kJobTokens.length);
  result->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace

bool would_measure(const Context& context, const std::filesystem::path& model, const SpecOptions& spec) {
  return look(context, model, spec).subject.has_value();
}

double measuring_seconds(double read_seconds, double solve_seconds) noexcept {
  return read_seconds + 1.25 * solve_seconds;
}

std::shared_ptr<const MeasuredImportance> measure_for_job(const Context& context, const QuantizeOptions& options,
                                                          Communicator& communicator, JobMonitor* monitor) {
  RankExchange exchange(communicator, host_name(), context.stop);
  try {
    const auto result = measured(context, options, exchange, communicator.local_size(), monitor);
    exchange.leave();
    return result;
  } catch (const Error& error) {
    exchange.fail(error);
    if (error.code() != ErrorCode::kInterrupted) throw;
    throw Error(error.code(),
                fmt::format("{} while the inputs were measured, before anything was written: run the same "
                            "command again",
                            error.what()));
  }
}

}  // namespace halfquad
