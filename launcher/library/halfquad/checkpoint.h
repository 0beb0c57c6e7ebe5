#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <halfquad/error.h>
#include <halfquad/quantize.h>
#include <halfquad/version.h>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

/// Quantization of whole checkpoints, as `halfquad quantize MODEL OUT` does it with one process: streamed, the same
/// bytes for any number of threads and any budget, continued after an interruption.
namespace halfquad {

/// How far a job is.
struct JobProgress {
  std::uint64_t source_bytes_done = 0;  ///< Whose output is written.
  std::uint64_t source_bytes = 0;       ///< Of the whole job.
  std::uint64_t weights_done = 0;       ///< Solved.
  std::uint64_t weights = 0;
  double seconds = 0;  ///< Since the first read.
};

enum class NonfiniteWeights : std::uint8_t {
  kError,         ///< A NaN or infinity ends the job.
  kZero,          ///< It becomes 0.
  kKeepOriginal,  ///< Its tensor stays unquantized; all weights are read once more to know.
};

/// A job. What is empty, or 0 where that makes no sense, is as `halfquad quantize` has it without the option named.
struct CheckpointJob {
  std::filesystem::path model;  ///< A Hugging Face directory, or one .safetensors, .bin, .pt or .gguf file.
  std::filesystem::path out;    ///< Directory to create, or one .gguf, .h5 or .safetensors file.

  std::string format = {};                       ///< --format: "hqq", "mlx", "compressed-tensors", "gguf", ...
  std::optional<CodeBits> bits = {};             ///< --bits
  std::optional<std::int64_t> group_size = {};   ///< --group-size; 0: whole rows.
  std::optional<int> axis = {};                  ///< --axis
  SolveMethod method = SolveMethod::kAutomatic;  ///< --solver
  int steps = 0;                                 ///< --iters
  int starts = 0;                                ///< --starts
  /// --importance: "auto" (or nothing), "random", "weights", "none" or the path of a file. What is measured first has
  /// no calls of `progress`.
  std::string importance = {};
  std::optional<double> importance_power = {};  ///< --importance-power
  std::optional<bool> round_zero = {};          ///< --round-zero
  bool per_tensor = false;                      ///< --per-tensor
  bool symmetric = false;                       ///< --symmetric
  bool group_fallback = false;                  ///< --group-fallback
  std::optional<FloatType> scale_type = {};     ///< --scale-dtype
  std::string block_type = {};                  ///< --type: "Q4_K", "nvfp4", "nf4", ...
  std::string mixture = {};                     ///< --mixture, of GGUF: "Q4_K_M", ...
  std::uint64_t target_bytes = 0;               ///< --target-size, instead of bits.
  double target_bits_per_weight = 0;            ///< --target-bpw, instead of bits.
  std::string embeddings = {};                  ///< --embeddings: "8", "6", "keep".
  NonfiniteWeights nonfinite = NonfiniteWeights::kError;
  std::uint64_t max_shard_bytes = 0;    ///< --max-shard-size
  std::vector<std::string> rules = {};  ///< --rule, in order: "down_proj=bits:3,group-size:32".
  std::vector<std::string> skip = {};   ///< --skip: patterns of tensors to leave as they are.
  std::filesystem::path recipe = {};    ///< --recipe

  bool overwrite = false;          ///< Replace `out` once the new output is complete.
  bool fresh = false;              ///< Discard what an interrupted job finished.
  int threads = 0;                 ///< 0: all cores that the process may use.
  std::uint64_t memory_bytes = 0;  ///< Of all buffers; 0: 2 GiB, or half of what is free.
  std::string devices = "none";    ///< GPUs beside the cores: "none", "auto", "all" or a list such as "0,2".

  /// Called before any work, then from a thread of the job about every `progress_interval`, and once at the end of the
  /// work. What it throws ends the job, if that is not complete yet, and comes out of quantize_checkpoint().
  std::function<void(const JobProgress&)> progress = {};
  std::chrono::milliseconds progress_interval{200};
  /// Called with one sentence for each thing that a person should know of; from any thread of the job, one at a time.
  /// It must not throw.
  std::function<void(const std::string&)> warn = {};
  /// Once a stop is requested, the job ends within seconds with kInterrupted.
  std::stop_token stop = {};
};

/// What a finished job came to.
struct JobSummary {
  std::size_t layers = 0;           ///< Quantized.
  std::size_t kept_tensors = 0;     ///< Left as they were.
  std::uint64_t weights = 0;        ///< Quantized.
  double bits_per_weight = 0;       ///< Of these, scales and zeros included.
  std::uint64_t source_bytes = 0;   ///< Read for the job.
  std::uint64_t output_bytes = 0;   ///< Of the weight files.
  std::uint64_t resumed_bytes = 0;  ///< Of source_bytes, what an earlier, interrupted job had finished.
  double seconds = 0;               ///< From the first read to the last write.
  double mean_abs_error = 0;        ///< Over all quantized weights.
  std::optional<double> relative_error = {};
};

/// Does the job and returns once `out` is complete and on stable storage; until then nothing has that name, work goes
/// to OUT.partial beside it. After kInterrupted or an error that passes, such as a full disk, the same job continues
/// from there. Prints nothing, leaves signals and the process alone, and shares nothing with other jobs of the process.
/// Throws halfquad::Error alone (but for what `progress` throws): kUsage, kBadInput, kIo, kOutOfMemory, kInterrupted,
/// kInternal; what() is one sentence that names tensor, file and offset where known.
JobSummary quantize_checkpoint(const CheckpointJob& job);

}  // namespace halfquad
