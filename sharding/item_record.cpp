#include "sharding/item_record.h"

#include <utility>

namespace halfquad {

void TensorDecision::write(WireWriter& out) const {
  out.put(steps);
  out.put(stopped_early);
  out.put(grid.inverse_scale);
  out.put(grid.scale);
  out.put(grid.zero);
  out.put(tensor_scale);
  out.put(levels.has_value());
  for (const float level : levels.value_or(Levels{})) {
    if (levels) out.put(level);
  }
  out.put(static_cast<std::uint64_t>(importance ? importance->size() : 0));
  if (importance) {
    for (const float h : *importance) out.put(h);
  }
}

TensorDecision TensorDecision::read(WireReader& in) {
  TensorDecision decision;
  in.get(decision.steps);
  in.get(decision.stopped_early);
  in.get(decision.grid.inverse_scale);
  in.get(decision.grid.scale);
  in.get(decision.grid.zero);
  in.get(decision.tensor_scale);
  if (in.get<bool>()) {
    for (float& level : decision.levels.emplace()) in.get(level);
  }
  std::vector<float> importance(in.count(sizeof(float)));
  for (float& h : importance) in.get(h);
  if (!importance.empty()) decision.importance = std::make_shared<const std::vector<float>>(std::move(importance));
  return decision;
}

void ItemRecord::write(WireWriter& out) const {
  out.put(item);
  decision.write(out);
  out.put(error);
  out.put(zeroed);
  out.put(seconds);
  out.put(static_cast<std::uint64_t>(blocks.size()));
  for (const BlockSum& block : blocks) {
    out.put(block.entry);
    out.put(block.block);
    out.put(block.hash);
  }
}

ItemRecord ItemRecord::read(WireReader& in) {
  constexpr std::size_t kBlockBytes = sizeof(std::uint32_t) + 2 * sizeof(std::uint64_t);
  ItemRecord record;
  in.get(record.item);
  record.decision = TensorDecision::read(in);
  in.get(record.error);
  in.get(record.zeroed);
  in.get(record.seconds);
  record.blocks.resize(in.count(kBlockBytes));
  for (BlockSum& block : record.blocks) {
    in.get(block.entry);
    in.get(block.block);
    in.get(block.hash);
  }
  return record;
}

}  // namespace halfquad
