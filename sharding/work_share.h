#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

#include "sharding/decision_board.h"
#include "sharding/item_record.h"
#include "sharding/work_queue.h"

namespace halfquad {

/// A pipeline's side of the job it has a share in: where its items come from, where its tensors are settled and where
/// its results are told. Thread-safe; every call may be made from any of the pipeline's threads.
class WorkShare {
 public:
  /// Called with a tensor's decision, from any thread, with no lock held; also from within add_first_passes().
  using OnDecided = std::function<void(std::size_t tensor, const TensorDecision& decision)>;

  virtual ~WorkShare() = default;

  /// Called once, before any other. Decisions come only for tensors of which this share had first passes.
  virtual void start(OnDecided on_decided) = 0;
  /// Called once, after all others but done(): no decision is told any more when it returns.
  virtual void finish() = 0;
  /// The next items; blocks until it is known. Nothing: no more will come.
  [[nodiscard]] virtual std::optional<ItemRange> next() = 0;
  /// First passes this pipeline made; each tile is counted once.
  virtual void add_first_passes(FirstPasses passes) = 0;
  /// An item whose output was written. Never blocks and calls nothing back.
  virtual void done(ItemRecord record) = 0;
};

/// Where a share keeps its OnDecided: calls and the end exclude each other.
class DecisionListener {
 public:
  void set(WorkShare::OnDecided on_decided) {
    const std::lock_guard lock(mutex_);
    on_decided_ = std::move(on_decided);
  }
  void tell(std::size_t tensor, const TensorDecision& decision) {
    const std::lock_guard lock(mutex_);
    if (on_decided_) on_decided_(tensor, decision);
  }

 private:
  std::mutex mutex_;
  WorkShare::OnDecided on_decided_;
};

}  // namespace halfquad
