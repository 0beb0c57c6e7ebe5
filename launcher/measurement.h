#pragma once

#include <map>
#include <memory>
#include <string>

#include "io/checkpoint.h"
#include "launcher/context.h"
#include "launcher/job_monitor.h"
#include "launcher/options.h"
#include "sharding/forward/decoder_model.h"
#include "sharding/forward/forward_pass.h"
#include "sharding/forward/rank_exchange.h"
#include "sharding/forward/token_batch.h"

namespace halfquad {

/// A model and what is run through it; the same on every rank.
struct Subject {
  Checkpoint checkpoint;
  DecoderModel model;  ///< Points to tensors of the checkpoint, which stay where they are when it moves.
  TokenBatch batch;
  std::map<std::string, std::string> metadata;  ///< Of the file that comes out.

  /// The metadata as one text, by which ranks see whether they measure the same.
  [[nodiscard]] std::string text() const;
};

/// A subject's inputs, about to be measured.
struct Measurement {
  const Subject& subject;
  int processes = 1;              ///< That share this machine.
  JobMonitor* monitor = nullptr;  ///< Told of the progress, when there is one.
  bool zero_nonfinite = false;    ///< ForwardOptions::zero_nonfinite
};

/// measure_inputs() by the options of the command line, with a progress bar on rank 0. Collective.
[[nodiscard]] ModelPower measure_on_host(const Context& context, const MachineOptions& machine, const Measurement& what,
                                         RankExchange& exchange);

/// What is measured by as a file's metadata has it. Nothing in it depends on how the work is divided.
[[nodiscard]] std::map<std::string, std::string> measurement_metadata(const Checkpoint& checkpoint,
                                                                      const TokenBatch& batch);
/// What more is said of random tokens.
void add_random_tokens(std::map<std::string, std::string>& metadata, const RandomTokens& random);
/// How many experts there are and how many had few tokens, for a model that has any.
void add_experts(std::map<std::string, std::string>& metadata, const ModelPower& power);

/// The bytes of a safetensors file with a vector for each module. Gives the memory of `power` back as it goes.
[[nodiscard]] std::string importance_file(ModelPower& power, const std::map<std::string, std::string>& metadata);

}  // namespace halfquad
