#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "kernels/column_importance.h"
#include "kernels/decode.h"
#include "kernels/level_grid.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/device_tiles.h"
#include "sharding/given_importance.h"
#include "sharding/pipeline.h"

namespace halfquad {
void Pipeline::solve_loop(const std::string& lane) {
  TileSolver solver(in_.options.make_solver());
  while (true) {
    std::vector<Unit> units = next_solve(0);
    if (units.empty()) break;
    solve_units(solver, nullptr, std::move(units), lane);
  }
  worker_gone();
}

// A device that cannot be had, or fails, leaves its tiles to the other workers.
void Pipeline::device_loop(const std::string& lane, int worker) {
  DeviceSet& devices = *in_.options.devices;
  if (const std::unique_ptr<DeviceSolver> device = devices.open(worker)) {
    TileSolver host(in_.options.make_solver());
    DeviceLane own{*device, worker, DeviceScratch(devices)};
    while (!devices.lost(worker)) {
      std::vector<Unit> units = next_solve(DeviceSet::kBatchWeights);
      if (units.empty()) break;
      solve_units(host, &own, std::move(units), lane);
    }
  }
  if (shape_.workers == 0 && devices.lost(worker)) return solve_loop(lane);
  worker_gone();
}

void Pipeline::worker_gone() {
  const std::lock_guard lock(mutex_);
  --workers_running_;
  writing_changed_.notify_all();
  ended_.notify_all();
}

// The next tile, and more as long as they hold no more than `batch_weights` in all. Empty: there will be none.
std::vector<Unit> Pipeline::next_solve(std::uint64_t batch_weights) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  ready_changed_.wait(lock, [&] { return failed_ || !ready_.empty() || readers_running_ == 0; });
  stats_.read_wait_seconds += seconds_since(start);
  std::vector<Unit> units;
  std::uint64_t weights = 0;
  while (!failed_ && !ready_.empty()) {
    const std::uint64_t more = weights_of(item_of(ready_.front()));
    if (!units.empty() && weights + more > batch_weights) break;
    weights += more;
    ready_weights_ -= more;
    units.push_back(std::move(ready_.front()));
    ready_.pop_front();
  }
  ready_room_.notify_all();
  return units;
}

void Pipeline::solve_units(TileSolver& host, DeviceLane* device, std::vector<Unit> units, const std::string& lane) {
  check_stop();
  const auto start = std::chrono::steady_clock::now();
  std::vector<Pass> passes;
  for (Unit& unit : units) passes.push_back(begin_pass(std::move(unit)));
  if (device != nullptr) solve_on_device(*device, passes);
  for (Pass& pass : passes) {
    if (!pass.solved) solve_on_host(host, pass);
  }
  const double seconds = seconds_since(start) / static_cast<double>(passes.size());
  for (Pass& pass : passes) {
    const bool first = pass.unit.phase == Unit::Phase::kFirst;
    trace(lane, first ? "solve" : "finish", item_of(pass.unit), start);
    end_pass(std::move(pass), seconds);
    if (!first) continue;
    const std::lock_guard lock(mutex_);
    --unsolved_;
    if (few_left_) reading_changed_.notify_all();
  }
}

Pipeline::Pass Pipeline::begin_pass(Unit unit) {
  const WorkItem& item = item_of(unit);
  const QuantizedTensor& tensor = in_.layout.quantized()[item.tensor];
  unit.strips.resize(static_cast<std::size_t>(TileSolver::strip_count(tensor, item.index)));
  Pass pass;
  pass.job = {&tensor, item.index, in_.layout.stored(), tensor.spec.iters};
  pass.job.levels = fixed_levels(tensor.spec.grid);
  if (tensor.given) {
    pass.job.tensor_scale = unit.record.decision.tensor_scale = tensor.given_tensor_scale;
    unit.record.decision.levels = tensor.given_levels;
    if (tensor.given_levels) pass.job.levels = &*tensor.given_levels;
  }
  if (tensor.takes_importance()) {
    pass.importance = in_.options.importance->weights_of(tensor.source, tensor.spec.importance_power);
    pass.job.importance = pass.importance->data();
  }
  if (unit.phase == Unit::Phase::kFirst) {
    pass.found.tensor = item.tensor;
    pass.found.tiles = 1;
    pass.solve = !tensor.wants_whole();
    if (tensor.weighs_columns()) pass.found.columns.emplace(tensor.cols);
    if (tensor.wants_levels()) pass.found.levels.emplace();
    if (tensor.optimizes()) {
      pass.job.record = RecordErrors::kYes;
      pass.found.step_abs.resize(static_cast<std::size_t>(tensor.spec.iters));
    }
  } else {                                                             // its tensor is decided
    const TensorDecision& decision = *tensors_[item.tensor].decision;  // does not change any more
    unit.record.decision = decision;
    pass.job.iters = decision.steps;
    if (!tensor.spec.channel_wise) pass.job.grid = &decision.grid;
    if (tensor.weighs_columns()) pass.job.importance = decision.importance->data();
    pass.job.tensor_scale = decision.tensor_scale;
    if (decision.levels) pass.job.levels = &*decision.levels;
    if (unit.phase == Unit::Phase::kFinish && tensor.optimizes()) pass.redo_after = decision.steps;
  }
  pass.unit = std::move(unit);
  return pass;
}

// Whether a held tile is what its tensor's decision makes of it: no zero moved after the stop step.
bool Pipeline::stands_as_it_is(const Unit& unit, const TensorDecision& decision) const {
  return in_.layout.quantized()[item_of(unit).tensor].optimizes() &&
         std::all_of(unit.strips.begin(), unit.strips.end(),
                     [&](const StripResult& strip) { return strip.settled <= decision.steps; });
}

// What the device cannot finish, for whatever reason, is left to the host, which knows how to say why.
void Pipeline::solve_on_device(DeviceLane& device, std::span<Pass> passes) {
  std::vector<Pass*> sent;
  std::uint64_t unpacked = 0;
  for (Pass& pass : passes) {
    if (!pass.solve || !devices_solve(*pass.job.tensor)) continue;
    unpacked += unpacked_bytes(pass.job);
    sent.push_back(&pass);
  }
  if (sent.empty()) return;
  std::vector<DeviceTile> tiles;
  std::vector<TileOutput> outputs;
  std::byte* scratch = unpacked > 0 ? device.scratch.reserve(unpacked) : nullptr;
  for (Pass* pass : sent) {
    const std::uint64_t bytes = unpacked_bytes(pass->job);
    outputs.push_back(bytes > 0 ? unpacked_output(pass->job, scratch) : pass->unit.buffer.output());
    tiles.push_back(device_tile(pass->job, pass->unit.buffer, outputs.back()));
    scratch += bytes;
  }
  std::vector<DeviceResult> results;
  try {
    results = device.solver.solve(tiles);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDevice && error.code() != ErrorCode::kOutOfMemory) throw;
    in_.options.devices->lose(device.worker, error);
    // What strips held that needed no second solve may be gone, too.
    for (Pass* pass : sent) pass->redo_after = kAllStrips;
    return;
  }
  for (std::size_t i = 0; i < sent.size(); ++i) {
    Pass& pass = *sent[i];
    if (results[i].outcome != DeviceOutcome::kDone) {
      pass.redo_after = kAllStrips;
      continue;
    }
    if (tiles[i].unpacked) pack_unpacked(pass.job, outputs[i], pass.unit.buffer.output());
    spread_result(results[i], pass.unit.strips);
    if (pass.job.record == RecordErrors::kYes) pass.found.step_abs = std::move(results[i].step_abs);
    pass.solved = true;
    pass.strips = pass.unit.strips.size();
    if (pass.redo_after != kAllStrips) continue;
    const std::lock_guard lock(mutex_);
    stats_.device_weights += weights_of(item_of(pass.unit));
  }
}

void Pipeline::solve_on_host(TileSolver& solver, Pass& pass) {
  const QuantizedTensor& tensor = *pass.job.tensor;
  Unit& unit = pass.unit;
  if (!pass.solve) return look_over(solver, pass);
  const auto count = static_cast<std::int64_t>(unit.strips.size());
  while (true) {
    bool finite = true;
    pass.strips = 0;
    for (std::int64_t strip = 0; strip < count && finite; ++strip) {
      StripResult& result = unit.strips[static_cast<std::size_t>(strip)];
      if (pass.redo_after != kAllStrips && result.settled <= pass.redo_after) continue;
      check_stop();  // a whole tile takes seconds on a slow backend
      finite = solver.solve(pass.job, strip, unit.buffer.source(), unit.buffer.output(), result, pass.found.step_abs);
      ++pass.strips;
    }
    if (finite) return;
    clear_nonfinite(unit, tensor);
    for (ExactSum& sum : pass.found.step_abs) sum = ExactSum();
  }
}

// What has to be known of the whole tensor before it can be solved.
void Pipeline::look_over(TileSolver& solver, Pass& pass) {
  const QuantizedTensor& tensor = *pass.job.tensor;
  const TileSource& source = pass.unit.buffer.source();
  if (tensor.wants_tensor_scale() || tensor.wants_levels() || !tensor.spec.channel_wise) {
    pass.found.range = solver.range(tensor, pass.job.tile, source);
    if (pass.found.range.nonfinite) {
      clear_nonfinite(pass.unit, tensor);
      pass.found.range = solver.range(tensor, pass.job.tile, source);
    }
  }
  if (pass.found.columns) TileSolver::add_columns(tensor, pass.job.tile, source, *pass.found.columns);
  if (pass.found.levels) add_levels(solver, pass);
}

// The columns count as their weights in this tile say: what all of them say is known only later. Tiles are the same for
// every division of the work.
void Pipeline::add_levels(TileSolver& solver, Pass& pass) {
  const QuantizedTensor& tensor = *pass.job.tensor;
  TileSolver::Job job = pass.job;
  std::vector<float> importance;
  if (pass.found.columns) {
    const std::int64_t rows = tensor.tiles.end_row(job.tile) - tensor.tiles.first_row(job.tile);
    importance = column_importance(*pass.found.columns, rows, {.power = tensor.spec.importance_power});
    job.importance = importance.data();
  }
  solver.add_levels(job, pass.unit.buffer.source(), *pass.found.levels);
}

// Off to the writers, or held until the tensor is decided.
void Pipeline::end_pass(Pass pass, double seconds) {
  const WorkItem& item = item_of(pass.unit);
  const bool first = pass.unit.phase == Unit::Phase::kFirst;
  const bool left_over = item.tensor < in_.settled.size() && in_.settled[item.tensor];
  if (first || left_over) in_.progress.weights_done += weights_of(item);
  pass.unit.record.seconds += seconds;
  {
    const std::lock_guard lock(mutex_);
    stats_.solve_seconds += seconds;
    if (pass.redo_after != kAllStrips) stats_.strips_redone += pass.strips;
  }
  if (first && TensorState::waits(*pass.job.tensor)) {
    first_pass_done(std::move(pass.unit), std::move(pass.found));
  } else {
    push_write(std::move(pass.unit));
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
      // Of a tensor that is decoded, where it begins.
      const std::int64_t bytes_before = source.decoder == nullptr ? index * size : 0;
      throw Error(
          ErrorCode::kBadInput,
          fmt::format("tensor {} holds a NaN or infinity at [{}, {}] (file {}, offset {}); use --nonfinite zero or "
                      "keep-original, or leave the tensor out with --skip",
                      quoted(source.name), index / tensor.cols, index % tensor.cols,
                      quoted(in_.checkpoint.files()[static_cast<std::size_t>(source.file)].name),
                      source.offset + static_cast<std::uint64_t>(bytes_before)));
    }
    zeroed += zero_nonfinite(start, source.dtype, count);
  }
  HALFQUAD_REQUIRE(zeroed > 0, kBadInput, range_error(source));
  unit.buffer.forget_coded();
  unit.record.zeroed += zeroed;
}

std::string Pipeline::range_error(const SourceTensor& source) const {
  return fmt::format(
      "tensor {} (file {}, offset {}): the range of a group's weights is beyond fp32; leave it out with --skip",
      quoted(source.name), quoted(in_.checkpoint.files()[static_cast<std::size_t>(source.file)].name), source.offset);
}

void Pipeline::first_pass_done(Unit unit, FirstPasses passes) {
  const std::size_t tensor = item_of(unit).tensor;
  FirstPasses told;
  {
    const std::lock_guard lock(mutex_);
    TensorState& state = tensors_[tensor];
    state.passes.tensor = tensor;
    state.passes.add(std::move(passes));
    unit.phase = Unit::Phase::kFinish;
    if (waiting_ > 0 && tiles_to_come_locked(tensor) > 0) {
      give_up_locked(std::move(unit));
    } else {
      state.held.push_back(std::move(unit));
    }
    if (--state.first_passes_open == 0) told = std::exchange(state.passes, {});
  }
  writing_changed_.notify_one();  // it may have been given up
  if (told.tiles == 0) return;
  const QuantizedTensor& whole = in_.layout.quantized()[tensor];
  const bool much = whole.weighs_columns() || whole.wants_levels();
  if (much && whole.scale_with.empty() && told.tiles == whole.tiles.tile_count()) {
    // Nobody else has a part in it, and much would be sent.
    decided(tensor, decide(whole, told, tensor_scale_of(whole, told.range)));
  } else {
    in_.share.add_first_passes(std::move(told));
  }
}

// Lets the memory of a tile go whose tensor is not decided.
void Pipeline::give_up_locked(Unit unit) {
  const std::size_t tensor = item_of(unit).tensor;
  TensorState& state = tensors_[tensor];
  if (in_.layout.quantized()[tensor].optimizes()) {
    unit.phase = Unit::Phase::kAhead;
    ++state.writes_ahead;
    let_go_.push_back(std::move(unit));
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
    for (Unit& unit : state.held) {
      if (stands_as_it_is(unit, decision)) {
        unit.record.decision = decision;
        let_go_.push_back(std::move(unit));
        continue;
      }
      ready_weights_ += weights_of(item_of(unit));
      ready_.push_front(std::move(unit));
    }
    state.held.clear();
    settle_given_up_locked(tensor);
  }
  ready_changed_.notify_all();
  writing_changed_.notify_all();
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
  reading_changed_.notify_all();
}

std::uint64_t Pipeline::weights_of(const WorkItem& item) const {
  return item.source_bytes / static_cast<std::uint64_t>(bytes_of(source_of(item).dtype));
}

}  // namespace halfquad
