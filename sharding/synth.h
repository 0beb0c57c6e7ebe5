#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"
#include "runtime/dtype.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"

namespace halfquad {

struct SynthOptions {
  std::string preset = "tiny";  ///< One of synth_presets().
  std::optional<int> layers{};  ///< Instead of the preset's.
  std::uint64_t seed = 1;
  DType dtype = DType::kBF16;                 ///< BF16, F16 or F32.
  std::uint64_t shard_bytes = 5'000'000'000;  ///< Largest weight file, as huggingface_hub cuts.
  int threads = 1;
};

[[nodiscard]] std::vector<std::string_view> synth_presets();

/// Writes a checkpoint with the preset's real shapes and seeded, roughly Gaussian weights to `directory` (which
/// must be empty or missing): config.json, safetensors shards, index. The bytes depend on preset, layers, seed, dtype
/// and shard size alone. Throws kUsage for an unknown preset or a directory in use.
void synthesize(FileSystem& fs, const std::filesystem::path& directory, const SynthOptions& options,
                ProgressCounters& progress, const StopFlag& stop);

/// Bytes synthesize() will write.
[[nodiscard]] std::uint64_t synth_bytes(const SynthOptions& options);

}  // namespace halfquad
