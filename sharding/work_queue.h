#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "sharding/plan.h"

namespace halfquad {

/// A run of Plan::items, [begin, end).
struct ItemRange {
  std::size_t begin = 0, end = 0;
  [[nodiscard]] std::size_t size() const noexcept { return end - begin; }
};

enum class Schedule : std::uint8_t {
  kDynamic,  ///< A rank that is done with its share helps the one that has most left.
  kStatic,   ///< Every rank does its share and no more.
};

/// Hands the items of a plan to ranks. Each rank owns a run of items of about equal cost and walks it in file order, so
/// that it keeps reading the files it already reads, but for tensors it shares with other ranks, which come first, and
/// large ones that are only copied, which come next; runs are handed out in pieces that shrink towards the end. Pure:
/// no clock, no messages. Not thread-safe.
class WorkQueue {
 public:
  /// Cost of one item: what it adds to a rank's time, in any unit.
  using Costs = std::vector<double>;

  /// `done[i]`: item i needs no work any more (resumed); empty: none is done. Costs default to source + output bytes.
  WorkQueue(const Plan& plan, int ranks, Schedule schedule, std::span<const std::uint8_t> done = {},
            const Costs& costs = {});

  /// The next items for `rank`; nothing when no more will come.
  [[nodiscard]] std::optional<ItemRange> next(int rank);

  /// Items not yet handed out.
  [[nodiscard]] std::size_t left() const noexcept { return left_; }
  /// The run of items rank `rank` owns, before any helping: for `plan`.
  [[nodiscard]] const std::vector<ItemRange>& share(int rank) const { return shares_[static_cast<std::size_t>(rank)]; }

 private:
  // What is left of a rank's run: pieces without done items, in the order they are walked.
  struct Run {
    std::vector<ItemRange> pieces;
    std::size_t first = 0;  // of pieces, with work left
    double cost = 0;
    [[nodiscard]] bool empty() const noexcept { return first == pieces.size(); }
  };
  [[nodiscard]] double cost_of(ItemRange range) const { return cost_before_[range.end] - cost_before_[range.begin]; }
  [[nodiscard]] ItemRange tensor_of(std::size_t item) const;
  [[nodiscard]] double piece_cost() const;
  ItemRange take_front(Run& run, double most) const;
  ItemRange take_back(Run& run, double most) const;
  void cut_shares(std::span<const std::uint8_t> done, int ranks);
  void start_with_cut_tensors(Run& run) const;
  void put_copies_first(std::vector<ItemRange>& pieces) const;

  Schedule schedule_;
  Costs cost_before_;                 // [i]: of all items before i that are not done
  std::vector<std::size_t> borders_;  // the first item of every tensor, and one past the last item
  std::vector<std::uint8_t>
      copied_;  // [i]: whether the tensor that begins with borders_[i] is copied, in several blocks
  std::vector<std::vector<ItemRange>> shares_;
  std::vector<Run> runs_;
  std::size_t left_ = 0;
  double cost_left_ = 0;
  double largest_piece_ = 0;
};

}  // namespace halfquad
