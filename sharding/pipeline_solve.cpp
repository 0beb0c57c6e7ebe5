#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/pipeline.h"

namespace halfquad {
namespace {

constexpr int kAllStrips = -1;

}  // namespace

void Pipeline::solve_loop(const std::string& lane) {
  TileSolver solver(in_.options.make_solver());
  while (std::optional<Unit> unit = next_solve()) {
    check_stop();
    const auto start = std::chrono::steady_clock::now();
    const WorkItem& item = item_of(*unit);
    const bool first = unit->phase == Unit::Phase::kFirst;
    if (first) {
      solve_first(solver, std::move(*unit));
      const std::lock_guard lock(mutex_);
      --unsolved_;
      changed_.notify_all();
    } else {
      finish(solver, std::move(*unit));
    }
    trace(lane, first ? "solve" : "finish", item, start);
  }
  const std::lock_guard lock(mutex_);
  --workers_running_;
  changed_.notify_all();
}

std::optional<Unit> Pipeline::next_solve() {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failed_ || !ready_.empty() || readers_running_ == 0; });
  stats_.read_wait_seconds += seconds_since(start);
  if (failed_ || ready_.empty()) return {};
  Unit unit = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return unit;
}

void Pipeline::solve_first(TileSolver& solver, Unit unit) {
  const auto start = std::chrono::steady_clock::now();
  const WorkItem& item = item_of(unit);
  const QuantizedTensor& tensor = in_.layout.quantized()[item.tensor];
  unit.strips.resize(static_cast<std::size_t>(TileSolver::strip_count(tensor, item.index)));
  FirstPasses passes;
  passes.tensor = item.tensor;
  passes.tiles = 1;
  if (!tensor.spec.channel_wise) {
    passes.range = solver.range(tensor, item.index, unit.buffer.source());
    if (passes.range.nonfinite) {
      clear_nonfinite(unit, tensor);
      passes.range = solver.range(tensor, item.index, unit.buffer.source());
    }
  } else {
    const bool record = tensor.spec.optimizes();
    if (record) passes.step_abs.resize(static_cast<std::size_t>(tensor.spec.iters));
    TileSolver::Job job{&tensor, item.index, in_.layout.stored(), tensor.spec.iters};
    job.record = record ? RecordErrors::kYes : RecordErrors::kNo;
    solve_strips(solver, unit, job, kAllStrips, passes.step_abs);
  }
  in_.progress.weights_done += weights_of(item);
  if (TensorState::waits(tensor.spec)) {
    first_pass_done(std::move(unit), std::move(passes), start);
  } else {
    tile_solved(std::move(unit), start, 0);
  }
}

// A tile whose tensor is decided: what is left to solve, and off to the writers.
void Pipeline::finish(TileSolver& solver, Unit unit) {
  const auto start = std::chrono::steady_clock::now();
  const WorkItem& item = item_of(unit);
  const QuantizedTensor& tensor = in_.layout.quantized()[item.tensor];
  const TensorDecision& decision = *tensors_[item.tensor].decision;  // does not change any more
  unit.record.decision = decision;
  unit.strips.resize(static_cast<std::size_t>(TileSolver::strip_count(tensor, item.index)));
  TileSolver::Job job{&tensor, item.index, in_.layout.stored(), decision.steps};
  if (!tensor.spec.channel_wise) job.grid = &decision.grid;
  const bool solved = unit.phase == Unit::Phase::kFinish && tensor.spec.channel_wise;
  std::vector<ExactSum> no_sums;
  const std::uint64_t redone = solve_strips(solver, unit, job, solved ? decision.steps : kAllStrips, no_sums);
  const bool left_over = item.tensor < in_.settled.size() && in_.settled[item.tensor];
  if (left_over) in_.progress.weights_done += weights_of(item);
  tile_solved(std::move(unit), start, solved ? redone : 0);
}

// Solves the strips whose zeros were still moving after step `redo_after` (kAllStrips: every strip); returns how many.
std::uint64_t Pipeline::solve_strips(TileSolver& solver, Unit& unit, const TileSolver::Job& job, int redo_after,
                                     std::vector<ExactSum>& sums) {
  const auto count = static_cast<std::int64_t>(unit.strips.size());
  while (true) {
    bool finite = true;
    std::uint64_t solved = 0;
    for (std::int64_t strip = 0; strip < count && finite; ++strip) {
      StripResult& result = unit.strips[static_cast<std::size_t>(strip)];
      if (redo_after != kAllStrips && result.settled <= redo_after) continue;
      check_stop();  // a whole tile takes seconds on a slow backend
      finite = solver.solve(job, strip, unit.buffer.source(), unit.buffer.output(), result, sums);
      ++solved;
    }
    if (finite) return solved;
    clear_nonfinite(unit, *job.tensor);
    for (ExactSum& sum : sums) sum = ExactSum();
  }
}

// Applies the policy to the NaN and infinities of a tile; throws when it is to be an error, or when there are none and
// it is the range of a group that fp32 cannot hold.
void Pipeline::clear_nonfinite(Unit& unit, const QuantizedTensor& tensor) {
  const SourceTensor& source = source_of(item_of(unit));
  const TileSource& data = unit.buffer.source();
  const std::int64_t size = bytes_of(source.dtype);
  std::byte* row = data.slabs[0];
  std::int64_t zeroed = 0;
  for (std::size_t i = 0; i < unit.buffer.ranges().size(); ++i) {
    const ByteRange& range = unit.buffer.ranges()[i];
    std::byte* start = tensor.tiles.by_columns() ? row : data.slabs[i];
    row += tensor.tiles.by_columns() ? range.bytes : 0;
    const std::int64_t count = static_cast<std::int64_t>(range.bytes) / size;
    const std::optional<std::int64_t> at = find_nonfinite(start, source.dtype, count);
    if (!at) continue;
    if (in_.options.nonfinite == NonFinite::kError) {
      const std::int64_t index = static_cast<std::int64_t>(range.offset) / size + *at;
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("tensor {} holds a NaN or infinity at [{}, {}] (file {}, offset {}); use --nonfinite zero or "
                      "keep-original, or leave the tensor out with --skip",
                      quoted(source.name), index / tensor.cols, index % tensor.cols,
                      quoted(in_.checkpoint.files()[static_cast<std::size_t>(source.file)].name),
                      source.offset + static_cast<std::uint64_t>(index * size)));
    }
    zeroed += zero_nonfinite(start, source.dtype, count);
  }
  HALFQUAD_REQUIRE(zeroed > 0, kBadInput, range_error(source));
  unit.record.zeroed += zeroed;
}

std::string Pipeline::range_error(const SourceTensor& source) const {
  return fmt::format(
      "tensor {} (file {}, offset {}): the range of a group's weights is beyond fp32; leave it out with --skip",
      quoted(source.name), quoted(in_.checkpoint.files()[static_cast<std::size_t>(source.file)].name), source.offset);
}

void Pipeline::first_pass_done(Unit unit, FirstPasses passes, std::chrono::steady_clock::time_point start) {
  const std::size_t tensor = item_of(unit).tensor;
  FirstPasses told;
  {
    const std::lock_guard lock(mutex_);
    TensorState& state = tensors_[tensor];
    count_solving_locked(unit, start);
    state.passes.tensor = tensor;
    state.passes.add(passes);
    unit.phase = Unit::Phase::kFinish;
    if (!waiting_.empty() && *waiting_.begin() <= state.last_item) {
      give_up_locked(std::move(unit));
    } else {
      state.held.push_back(std::move(unit));
    }
    if (--state.first_passes_open == 0) told = std::exchange(state.passes, {});
  }
  changed_.notify_all();
  if (told.tiles > 0) in_.share.add_first_passes(told);
}

// Lets the memory of a tile go whose tensor is not decided.
void Pipeline::give_up_locked(Unit unit) {
  const std::size_t tensor = item_of(unit).tensor;
  TensorState& state = tensors_[tensor];
  if (in_.layout.quantized()[tensor].spec.channel_wise) {
    unit.phase = Unit::Phase::kAhead;
    ++state.writes_ahead;
    writing_.push_back(std::move(unit));
    return;
  }
  unit.buffer.release();
  constexpr int kNever = std::numeric_limits<int>::max();  // nothing of it is solved yet
  state.given_up.push_back({unit.item, kNever, {}});
}

void Pipeline::decided(std::size_t tensor, const TensorDecision& decision) {
  {
    const std::lock_guard lock(mutex_);
    TensorState& state = tensors_[tensor];
    state.decision = decision;
    for (Unit& unit : state.held) ready_.push_front(std::move(unit));
    state.held.clear();
    settle_given_up_locked(tensor);
  }
  changed_.notify_all();
}

// Once a tensor is decided and no write ahead could overtake a later one: which of its given-up tiles are right as they
// stand?
void Pipeline::settle_given_up_locked(std::size_t tensor) {
  TensorState& state = tensors_[tensor];
  if (!state.decision || state.writes_ahead > 0) return;
  for (TensorState::GivenUp& tile : state.given_up) {
    if (tile.settled <= state.decision->steps) {
      tile.record.decision = *state.decision;
      item_done(std::move(tile.record));
    } else {
      again_.push_back(tile.item);
      ++stats_.tiles_reread;
    }
  }
  state.given_up.clear();
  state.undecided = false;
  --undecided_;
}

void Pipeline::count_solving_locked(Unit& unit, std::chrono::steady_clock::time_point start) {
  const double seconds = seconds_since(start);
  unit.record.seconds += seconds;
  stats_.solve_seconds += seconds;
}

void Pipeline::tile_solved(Unit unit, std::chrono::steady_clock::time_point start, std::uint64_t redone) {
  {
    const std::lock_guard lock(mutex_);
    count_solving_locked(unit, start);
    stats_.strips_redone += redone;
  }
  push_write(std::move(unit));
}

std::uint64_t Pipeline::weights_of(const WorkItem& item) const {
  return item.source_bytes / static_cast<std::uint64_t>(bytes_of(source_of(item).dtype));
}

}  // namespace halfquad
