#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "io/file_system.h"
#include "io/safetensors_header.h"
#include "sharding/synth.h"

namespace halfquad {

/// A weight file of a synthetic checkpoint; its tensors lie in it in this order.
struct SynthFile {
  std::string name;
  std::vector<TensorEntry> tensors;
};

/// A synthetic checkpoint without its weights.
struct SynthModel {
  std::vector<SynthFile> files;
  boost::json::object config;
  std::optional<boost::json::object> index;  ///< When there are several files.
};

/// Throws kUsage for options synthesize() refuses.
[[nodiscard]] SynthModel synth_model(const SynthOptions& options);

/// Where the checkpoint lies that preset_files() shows.
inline constexpr char kPresetDirectory[] = "/preset";

/// `beneath`, with the headers of `model` as a checkpoint in kPresetDirectory: its weights cannot be read, and nothing
/// can be written. For planning without a checkpoint.
[[nodiscard]] std::unique_ptr<FileSystem> preset_files(FileSystem& beneath, const SynthModel& model);

}  // namespace halfquad
