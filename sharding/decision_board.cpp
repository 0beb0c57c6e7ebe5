#include "sharding/decision_board.h"

#include "runtime/check.h"

namespace halfquad {

void FirstPasses::add(const FirstPasses& other) {
  tiles += other.tiles;
  if (step_abs.size() < other.step_abs.size()) step_abs.resize(other.step_abs.size());
  for (std::size_t t = 0; t < other.step_abs.size(); ++t) step_abs[t].add(other.step_abs[t]);
  range.add(other.range);
}

void FirstPasses::write(WireWriter& out) const {
  out.put(static_cast<std::uint64_t>(tensor));
  out.put(tiles);
  out.put(static_cast<std::uint64_t>(step_abs.size()));
  for (const ExactSum& sum : step_abs) out.put(sum);
  out.put(range.lo);
  out.put(range.hi);
  out.put(range.nonfinite);
}

FirstPasses FirstPasses::read(WireReader& in) {
  FirstPasses passes;
  passes.tensor = in.get<std::uint64_t>();
  in.get(passes.tiles);
  passes.step_abs.resize(in.count(sizeof(std::uint64_t)));
  for (ExactSum& sum : passes.step_abs) in.get(sum);
  in.get(passes.range.lo);
  in.get(passes.range.hi);
  in.get(passes.range.nonfinite);
  return passes;
}

std::optional<TensorDecision> DecisionBoard::add(const FirstPasses& passes) {
  FirstPasses& all = tensors_.at(passes.tensor);
  all.add(passes);
  const QuantizedTensor& tensor = layout_.quantized()[passes.tensor];
  const std::int64_t tiles = tensor.tiles.tile_count();
  HALFQUAD_REQUIRE(all.tiles <= tiles, kInternal, "layer " + tensor.module + ": more tiles were solved than it has");
  if (all.tiles < tiles) return {};
  const TensorDecision decision = decide(tensor, all);
  all = FirstPasses();
  all.tiles = tiles;
  return decision;
}

TensorDecision decide(const QuantizedTensor& tensor, const FirstPasses& all) {
  TensorDecision decision;
  if (!tensor.spec.channel_wise) {
    decision.grid = start_grid(all.range, tensor.spec.width, tensor.spec.round_zero);
    return decision;
  }
  EarlyStop stop;
  for (const ExactSum& sum : all.step_abs) {
    ++decision.steps;
    if (stop.stops(sum.mean(tensor.rows * tensor.cols))) {
      decision.stopped_early = true;
      break;
    }
  }
  return decision;
}

}  // namespace halfquad
