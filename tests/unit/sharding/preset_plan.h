#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/posix_file_system.h"
#include "sharding/cost_model.h"
#include "sharding/rules.h"
#include "sharding/synth_model.h"

namespace halfquad::test {

/// The plan of a preset at 4 bit, group 64, from its headers.
struct PresetPlan {
  explicit PresetPlan(const SynthOptions& options) {
    const std::unique_ptr<FileSystem> beneath = make_posix_file_system();
    const std::unique_ptr<FileSystem> files = preset_files(*beneath, synth_model(options));
    const Checkpoint checkpoint(*files, kPresetDirectory);
    const OutputLayout layout(checkpoint, decide(checkpoint, parse_recipe("{}", "test")), DType::kF16);
    plan = make_plan(checkpoint, layout);
    weights = item_weights(checkpoint, layout, plan);
  }
  Plan plan;
  std::vector<std::uint64_t> weights;
};

}  // namespace halfquad::test
