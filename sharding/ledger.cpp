#include "sharding/ledger.h"

#include <fmt/format.h>

#include "runtime/check.h"

namespace halfquad {

Ledger::Ledger(const Plan& plan, const OutputLayout& layout)
    : plan_(plan),
      layout_(layout),
      done_(plan.items.size(), 0),
      left_(plan.items.size()),
      tensors_(layout.quantized().size()),
      open_items_(layout.contents().size(), 0) {
  for (const OutputTensor& content : layout.contents()) digests_.emplace_back(content.blocks);
  for (const WorkItem& item : plan.items) ++open_items_[entry_of(item)];
  for (std::size_t i = 0; i < layout.contents().size(); ++i) {
    // An empty tensor has no items: it is done as it stands.
    const OutputTensor::Kind kind = layout.contents()[i].kind;
    const bool copied = kind == OutputTensor::Kind::kCopy || kind == OutputTensor::Kind::kConvert;
    if (copied && open_items_[i] == 0) ++tensors_done_;
  }
}

std::size_t Ledger::entry_of(const WorkItem& item) const {
  return item.kind == WorkItem::Kind::kCopy ? item.tensor : layout_.quantized()[item.tensor].codes;
}

bool Ledger::add(const ItemRecord& record) {
  HALFQUAD_REQUIRE(record.item < plan_.items.size(), kBadInput,
                   fmt::format("item {} of a plan that has {}", record.item, plan_.items.size()));
  if (done_[record.item] != 0) return false;
  for (const BlockSum& block : record.blocks) {
    HALFQUAD_REQUIRE(block.entry < digests_.size() && block.block < digests_[block.entry].layout().block_count(),
                     kBadInput, fmt::format("item {} names a checksum block that is not there", record.item));
  }
  for (const BlockSum& block : record.blocks) digests_[block.entry].set(block.block, block.hash);
  const WorkItem& item = plan_.items[record.item];
  if (item.kind == WorkItem::Kind::kTile) {
    TensorResult& tensor = tensors_[item.tensor];
    tensor.error.add(record.error);
    tensor.steps = record.decision.steps;
    tensor.stopped_early = record.decision.stopped_early;
    tensor.zeroed += record.zeroed;
    tensor.seconds += record.seconds;
  }
  done_[record.item] = 1;
  --left_;
  source_bytes_done_ += item.source_bytes;
  if (--open_items_[entry_of(item)] == 0) ++tensors_done_;
  return true;
}

void Ledger::add_constants() {
  for (std::size_t i = 0; i < layout_.contents().size(); ++i) {
    const OutputTensor& content = layout_.contents()[i];
    if (content.kind == OutputTensor::Kind::kConstant) digests_[i].add(0, std::as_bytes(std::span(content.constant)));
  }
}

std::vector<std::string> Ledger::checksums() const {
  std::vector<std::string> checksums;
  for (const BlockDigest& digest : digests_) checksums.push_back(digest.hex());
  return checksums;
}

}  // namespace halfquad
