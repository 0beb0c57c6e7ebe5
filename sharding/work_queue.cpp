#include "sharding/work_queue.h"

#include <algorithm>
#include <iterator>

#include "runtime/check.h"

namespace halfquad {
namespace {

// A rank's next piece, as a part of its even share of what is left: small enough that the last pieces end together.
constexpr double kPiecesPerShare = 4;
// Most of what one piece may cost, in full tiles: so much may be lost, and must be helped with, when a rank is slow.
constexpr double kTilesPerPiece = 16;
// A tensor's rest this small beside the piece comes with it, so that fewer tensors lie on two ranks.
constexpr double kRestOfPiece = 0.25;

double default_cost(const WorkItem& item) { return static_cast<double>(item.source_bytes + item.output_bytes); }

// Costs of a typical full tile: most items are one, but the smallest tensors may be many.
double typical_full_cost(WorkQueue::Costs costs) {
  if (costs.empty()) return 0;
  const auto nth = costs.begin() + static_cast<std::ptrdiff_t>(costs.size() * 9 / 10);
  std::nth_element(costs.begin(), nth, costs.end());
  return *nth;
}

bool same_tensor(const WorkItem& a, const WorkItem& b) { return a.kind == b.kind && a.tensor == b.tensor; }

}  // namespace

WorkQueue::WorkQueue(const Plan& plan, int ranks, Schedule schedule, std::span<const std::uint8_t> done,
                     const Costs& costs)
    : schedule_(schedule) {
  const std::size_t count = plan.items.size();
  HALFQUAD_REQUIRE(ranks >= 1, kInternal, "work is handed out to at least one rank");
  HALFQUAD_REQUIRE(done.empty() || done.size() == count, kInternal, "the done items are not those of the plan");
  HALFQUAD_REQUIRE(costs.empty() || costs.size() == count, kInternal, "the costs are not those of the plan");
  Costs open_costs;
  cost_before_.reserve(count + 1);
  cost_before_.push_back(0);
  for (std::size_t i = 0; i < count; ++i) {
    if (i == 0 || !same_tensor(plan.items[i - 1], plan.items[i])) {
      borders_.push_back(i);
      copied_.push_back(0);
    } else {
      copied_.back() = plan.items[i].kind == WorkItem::Kind::kCopy ? 1 : 0;
    }
    const bool open = done.empty() || done[i] == 0;
    const double cost = open ? (costs.empty() ? default_cost(plan.items[i]) : costs[i]) : 0;
    if (open) open_costs.push_back(cost);
    cost_before_.push_back(cost_before_.back() + cost);
  }
  borders_.push_back(count);
  left_ = open_costs.size();
  cost_left_ = cost_before_.back();
  largest_piece_ = kTilesPerPiece * typical_full_cost(std::move(open_costs));
  cut_shares(done, ranks);
}

void WorkQueue::cut_shares(std::span<const std::uint8_t> done, int ranks) {
  const std::size_t count = cost_before_.size() - 1;
  const double share = cost_before_.back() / ranks;
  std::size_t begin = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    // The cut nearest to the even one; the last share takes what rounding left.
    const double even = share * (rank + 1);
    const auto above = std::lower_bound(cost_before_.begin(), cost_before_.end(), even);
    auto end = static_cast<std::size_t>(std::distance(cost_before_.begin(), above));
    if (end > 0 && end <= count && even - cost_before_[end - 1] < cost_before_[end] - even) --end;
    end = rank + 1 == ranks ? count : std::clamp(end, begin, count);

    Run run;
    for (std::size_t i = begin; i < end; ++i) {
      if (!done.empty() && done[i] != 0) continue;
      if (run.pieces.empty() || run.pieces.back().end != i) run.pieces.push_back({i, i});
      run.pieces.back().end = i + 1;
    }
    run.cost = cost_before_[end] - cost_before_[begin];
    shares_.push_back(run.pieces);
    start_with_cut_tensors(run);
    runs_.push_back(std::move(run));
    begin = end;
  }
}

// Puts the parts of tensors that other ranks have parts of before all else. All ranks do so, hence such tensors are
// complete soon; in file order the first part would wait for the last until the job ends.
void WorkQueue::start_with_cut_tensors(Run& run) const {
  if (run.empty()) return;
  const ItemRange whole{run.pieces.front().begin, run.pieces.back().end};
  const std::size_t front = *std::ranges::lower_bound(borders_, whole.begin);
  const std::size_t back = tensor_of(whole.end - 1).end == whole.end ? whole.end : tensor_of(whole.end - 1).begin;
  if (front >= back) return;  // parts alone
  std::vector<ItemRange> cut, inner;
  for (const ItemRange& piece : run.pieces) {
    const ItemRange head{piece.begin, std::min(piece.end, front)};
    const ItemRange middle{std::max(piece.begin, front), std::min(piece.end, back)};
    const ItemRange tail{std::max(piece.begin, back), piece.end};
    if (head.begin < head.end) cut.push_back(head);
    if (middle.begin < middle.end) inner.push_back(middle);
    if (tail.begin < tail.end) cut.push_back(tail);
  }
  put_copies_first(inner);
  cut.insert(cut.end(), inner.begin(), inner.end());
  run.pieces = std::move(cut);
}

// Copying goes on beside solving, but not once there is nothing left to solve: an output head is a file's last tensor.
void WorkQueue::put_copies_first(std::vector<ItemRange>& pieces) const {
  std::vector<ItemRange> copies, others;
  for (const ItemRange& piece : pieces) {
    for (std::size_t begin = piece.begin; begin < piece.end;) {
      const auto tensor = std::ranges::upper_bound(borders_, begin);
      const std::size_t end = std::min(*tensor, piece.end);
      const auto number = static_cast<std::size_t>(std::distance(borders_.begin(), tensor)) - 1;
      std::vector<ItemRange>& to = copied_[number] != 0 ? copies : others;
      if (!to.empty() && to.back().end == begin) {
        to.back().end = end;
      } else {
        to.push_back({begin, end});
      }
      begin = end;
    }
  }
  copies.insert(copies.end(), others.begin(), others.end());
  pieces = std::move(copies);
}

std::optional<ItemRange> WorkQueue::next(int rank) {
  HALFQUAD_REQUIRE(rank >= 0 && static_cast<std::size_t>(rank) < runs_.size(), kInternal,
                   "work was asked for by a rank that the queue does not know");
  Run* run = &runs_[static_cast<std::size_t>(rank)];
  const bool own = !run->empty();
  if (!own) {
    if (schedule_ == Schedule::kStatic || left_ == 0) return std::nullopt;
    const auto key = [](const Run& each) { return each.empty() ? -1.0 : each.cost; };
    run = &*std::ranges::max_element(runs_, {}, key);
    HALFQUAD_REQUIRE(!run->empty(), kInternal, "the work queue lost count of its items");
  }
  const ItemRange piece = own ? take_front(*run, piece_cost()) : take_back(*run, piece_cost());
  run->cost = run->empty() ? 0 : run->cost - cost_of(piece);
  left_ -= piece.size();
  cost_left_ -= cost_of(piece);
  return piece;
}

double WorkQueue::piece_cost() const {
  const double even = cost_left_ / (kPiecesPerShare * static_cast<double>(runs_.size()));
  return std::min(even, largest_piece_);
}

ItemRange WorkQueue::tensor_of(std::size_t item) const {
  const auto end = std::upper_bound(borders_.begin(), borders_.end(), item);
  return {*std::prev(end), *end};
}

ItemRange WorkQueue::take_front(Run& run, double most) const {
  ItemRange& rest = run.pieces[run.first];
  const auto first = cost_before_.begin();
  const auto above =
      std::upper_bound(first + static_cast<std::ptrdiff_t>(rest.begin) + 1,
                       first + static_cast<std::ptrdiff_t>(rest.end) + 1, cost_before_[rest.begin] + most);
  ItemRange piece{rest.begin, std::max(rest.begin + 1, static_cast<std::size_t>(std::distance(first, above)) - 1)};
  if (piece.end < rest.end) {
    const ItemRange tensor = tensor_of(piece.end);
    const ItemRange tail{piece.end, std::min(tensor.end, rest.end)};
    if (tensor.begin < piece.end && cost_of(tail) <= kRestOfPiece * cost_of(piece)) {
      piece.end = tail.end;
    } else if (tensor.begin > piece.begin && cost_of(tensor) <= most) {
      piece.end = tensor.begin;  // whole, in the next piece
    }
  }
  rest.begin = piece.end;
  if (rest.size() == 0) ++run.first;
  return piece;
}

ItemRange WorkQueue::take_back(Run& run, double most) const {
  ItemRange& rest = run.pieces.back();
  const auto first = cost_before_.begin();
  const auto above = std::lower_bound(first + static_cast<std::ptrdiff_t>(rest.begin),
                                      first + static_cast<std::ptrdiff_t>(rest.end), cost_before_[rest.end] - most);
  ItemRange piece{std::min(rest.end - 1, static_cast<std::size_t>(std::distance(first, above))), rest.end};
  if (piece.begin > rest.begin) {
    const ItemRange tensor = tensor_of(piece.begin);
    const ItemRange head{std::max(tensor.begin, rest.begin), piece.begin};
    if (tensor.begin < piece.begin && cost_of(head) <= kRestOfPiece * cost_of(piece)) {
      piece.begin = head.begin;
    } else if (tensor.begin < piece.begin && tensor.end < piece.end && cost_of(tensor) <= most) {
      piece.begin = tensor.end;
    }
  }
  rest.end = piece.begin;
  if (rest.size() == 0) run.pieces.pop_back();
  return piece;
}

}  // namespace halfquad
