#include "sharding/pipeline.h"

#include <algorithm>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "sharding/device_tiles.h"

namespace halfquad {
namespace {

constexpr std::chrono::milliseconds kStopPoll{50};
// Copies that may wait for tiles to go first: what this rank has taken and not begun is nobody else's to do.
constexpr std::size_t kMostPostponed = 32;
// Writers wait for the file system most of the time, and tiles come in pieces.
constexpr int kWriters = 4;

template <class T>
T share(std::uint64_t slots, std::uint64_t divisor, T most) {
  return static_cast<T>(
      std::clamp<std::uint64_t>(slots / divisor, 1, static_cast<std::uint64_t>(std::max<T>(1, most))));
}

}  // namespace

Pipeline::Pipeline(FileSystem& fs, const Inputs& inputs)
    : in_(inputs),
      files_(fs, inputs.checkpoint, inputs.options.read_mode),
      shape_(shape_for(inputs)),
      pool_(inputs.options.memory_bytes, shape_.device_workers > 0 ? inputs.options.devices : nullptr),
      tensors_(inputs.layout.quantized().size()) {
  for (std::size_t i = 0; i < in_.settled.size(); ++i) tensors_[i].decision = in_.settled[i];
}

Pipeline::Shape Pipeline::shape_for(const Inputs& inputs) {
  // Items that are read, solved, written or queued take at most about three quarters of the budget, the rest holds
  // tiles whose tensor is not decided yet.
  const std::uint64_t slots = inputs.options.memory_bytes / std::max<std::uint64_t>(1, inputs.plan.largest_item_bytes);
  Shape shape;
  const int devices = inputs.options.devices == nullptr ? 0 : inputs.options.devices->workers();
  if (devices > 0) shape.device_workers = share(slots, 4, devices);
  const bool host_waits = devices > 0 && inputs.options.devices_only;
  shape.workers = host_waits ? 0 : share(slots, 3, inputs.options.threads);
  shape.readers = share(slots, 10, std::clamp(inputs.options.threads / 2, 4, 16));
  const int writers = inputs.options.writers;
  shape.writers = share(slots, 5, writers > 0 ? writers : kWriters);
  shape.ready_limit = share<std::size_t>(slots, 10, static_cast<std::size_t>(shape.workers + shape.device_workers) + 1);
  shape.writing_limit = share<std::size_t>(slots, 10, static_cast<std::size_t>(shape.writers) + 1);
  return shape;
}

PipelineStats Pipeline::run() {
  in_.share.start([this](std::size_t tensor, const TensorDecision& decision) { decided(tensor, decision); });
  start_threads();
  in_.share.finish();
  if (error_) std::rethrow_exception(error_);
  stats_.peak_buffer_bytes = pool_.peak_bytes();
  return stats_;
}

void Pipeline::start_threads() {
  readers_running_ = shape_.readers;
  workers_running_ = shape_.workers + shape_.device_workers;
  std::vector<std::jthread> threads;
  const auto start = [&](int count, std::string_view kind, void (Pipeline::*loop)(const std::string&)) {
    for (int i = 0; i < count; ++i) {
      threads.emplace_back(
          [this, loop, lane = fmt::format("{} {}", kind, i)] { guarded([&] { (this->*loop)(lane); }); });
    }
  };
  guarded([&] {
    try {
      start(shape_.readers, "reader", &Pipeline::read_loop);
      start(shape_.workers, "worker", &Pipeline::solve_loop);
      start(shape_.writers, "writer", &Pipeline::write_loop);
      for (int i = 0; i < shape_.device_workers; ++i) {
        threads.emplace_back(
            [this, i, lane = fmt::format("device worker {}", i)] { guarded([&] { device_loop(lane, i); }); });
      }
    } catch (const std::system_error& error) {
      throw Error(ErrorCode::kOutOfMemory,
                  fmt::format("the system refused thread {} of {} ({}); lower --threads", threads.size() + 1,
                              shape_.readers + shape_.workers + shape_.writers + shape_.device_workers, error.what()));
    }
    watch_stop();
  });
}

// A pipeline may have nothing to do but to wait for other ranks: then no thread of it would notice a stop.
void Pipeline::watch_stop() {
  std::unique_lock lock(mutex_);
  while (!ended_.wait_for(lock, kStopPoll,
                          [this] { return failed_ || (readers_running_ == 0 && workers_running_ == 0); })) {
    check_stop();
  }
}

template <class Body>
void Pipeline::guarded(Body body) noexcept {
  try {
    body();
  } catch (...) {
    fail(std::current_exception());
  }
}

void Pipeline::fail(std::exception_ptr error) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    failed_ = true;
  }
  for (std::condition_variable* changed :
       {&reading_changed_, &ready_room_, &ready_changed_, &writing_room_, &writing_changed_, &ended_}) {
    changed->notify_all();
  }
  pool_.close();
}

void Pipeline::check_stop() const {
  if (in_.stop.requested()) throw Error(ErrorCode::kInterrupted, "interrupted: a stop was requested");
}

double Pipeline::seconds_since(Time start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Pipeline::trace(const std::string& lane, std::string_view what, const WorkItem& item, Time start) const {
  if (in_.options.trace == nullptr) return;
  in_.options.trace->add(lane, fmt::format("{} {} #{}", what, source_of(item).name, item.index), start,
                         std::chrono::steady_clock::now());
}

const SourceTensor& Pipeline::source_of(const WorkItem& item) const {
  if (item.kind == WorkItem::Kind::kTile) return in_.checkpoint.tensors()[in_.layout.quantized()[item.tensor].source];
  const OutputTensor& content = in_.layout.contents()[item.tensor];
  if (content.kind == OutputTensor::Kind::kCopy) return in_.checkpoint.tensors()[content.source];
  return in_.checkpoint.tensors()[content.sources[static_cast<std::size_t>(item.index / content.conversion.blocks())]];
}

// ---- reading

void Pipeline::read_loop(const std::string& lane) {
  while (const std::optional<NextRead> next = next_read()) {
    const auto start = std::chrono::steady_clock::now();
    Unit unit = read(*next);
    trace(lane, "read", item_of(unit), start);
    if (unit.phase == Unit::Phase::kCopy) {
      push_write(std::move(unit));
      continue;
    }
    std::unique_lock lock(mutex_);
    ready_room_.wait(lock, [&] { return failed_ || room_for_ready_locked(); });
    if (failed_) return;
    ready_weights_ += weights_of(item_of(unit));
    ready_.push_back(std::move(unit));
    ready_changed_.notify_one();
  }
  const std::lock_guard lock(mutex_);
  --readers_running_;
  ready_changed_.notify_all();
  writing_changed_.notify_all();
  ended_.notify_all();
}

// Devices take small tiles together, so more of these may wait for one.
bool Pipeline::room_for_ready_locked() const {
  return ready_.size() < shape_.ready_limit ||
         (shape_.device_workers > 0 && ready_weights_ < static_cast<std::uint64_t>(DeviceSet::kBatchWeights));
}

std::optional<Pipeline::NextRead> Pipeline::next_read() {
  check_stop();
  std::unique_lock lock(mutex_);
  while (true) {
    // Readers stay until every tensor is decided: until then a tile may have to be read again.
    reading_changed_.wait(lock, [&] {
      return failed_ || !again_.empty() || !postponed_.empty() || range_.size() > 0 ||
             (no_more_ ? undecided_ == 0 : may_fetch_locked());
    });
    if (failed_) return {};
    if (!again_.empty()) {
      const std::size_t item = again_.front();
      again_.pop_front();
      return NextRead{item, Unit::Phase::kAgain};
    }
    const bool more = range_.size() > 0 || (!no_more_ && may_fetch_locked());
    if (!postponed_.empty() && (!more || !room_for_ready_locked())) {
      const std::size_t item = postponed_.front();
      postponed_.pop_front();
      return NextRead{item, Unit::Phase::kCopy};
    }
    if (range_.size() > 0) {
      if (!postpone_locked(range_.begin)) break;
      postponed_.push_back(range_.begin++);
      continue;
    }
    if (no_more_) return {};
    fetch_range(lock);
  }
  const std::size_t index = range_.begin++;
  const WorkItem& item = in_.plan.items[index];
  if (item.kind == WorkItem::Kind::kCopy) return NextRead{index, Unit::Phase::kCopy};
  const bool waits = TensorState::waits(in_.layout.quantized()[item.tensor]);
  const bool known = waits && tensors_[item.tensor].decision.has_value();
  if (!known) ++unsolved_;
  return NextRead{index, known ? Unit::Phase::kAgain : Unit::Phase::kFirst};
}

// Copies wait while the workers want tiles: a checkpoint begins with its embedding, which is nothing to solve.
bool Pipeline::postpone_locked(std::size_t item) const {
  return in_.plan.items[item].kind == WorkItem::Kind::kCopy && room_for_ready_locked() &&
         postponed_.size() < kMostPostponed;
}

// Near the end of the job a rank takes no more tiles than it needs to go on without a pause: what it takes, another
// rank with idle cores cannot.
bool Pipeline::may_fetch_locked() const {
  return !fetching_ && (!few_left_ || unsolved_ < 2 * static_cast<std::size_t>(shape_.workers + shape_.device_workers));
}

// Asks for the next items, without the lock.
void Pipeline::fetch_range(std::unique_lock<std::mutex>& lock) {
  fetching_ = true;
  lock.unlock();
  const std::optional<ItemRange> range = in_.share.next();
  lock.lock();
  fetching_ = false;
  no_more_ = !range.has_value();
  range_ = range.value_or(ItemRange{});
  few_left_ = range_.size() == 1;
  for (std::size_t i = range_.begin; i < range_.end; ++i) {
    const WorkItem& item = in_.plan.items[i];
    if (item.kind == WorkItem::Kind::kCopy) continue;
    const QuantizedTensor& tensor = in_.layout.quantized()[item.tensor];
    TensorState& state = tensors_[item.tensor];
    if (!TensorState::waits(tensor) || state.decision) continue;
    ++state.first_passes_open;
    if (!state.undecided) ++undecided_;
    state.undecided = true;
  }
  reading_changed_.notify_all();
}

Unit Pipeline::read(const NextRead& next) {
  const WorkItem& item = in_.plan.items[next.item];
  const SourceTensor& source = source_of(item);
  Unit unit;
  unit.phase = next.phase;
  unit.item = next.item;
  unit.record.item = next.item;
  const OutputTensor* content = item.kind == WorkItem::Kind::kCopy ? &in_.layout.contents()[item.tensor] : nullptr;
  if (content != nullptr && content->kind == OutputTensor::Kind::kConvert) {
    const Conversion& conversion = content->conversion;
    const Conversion::Block block = conversion.block(item.index % conversion.blocks());
    Buffer memory = acquire(ItemBuffer::conversion_bytes(conversion, block, source));
    unit.buffer = ItemBuffer(std::move(memory), conversion, block, source);
  } else if (content != nullptr) {
    const ByteRange block{static_cast<std::uint64_t>(item.index) * kCopyBlockBytes, item.source_bytes};
    unit.buffer = ItemBuffer(acquire(ItemBuffer::copy_bytes(block.bytes)), block);
  } else {
    const QuantizedTensor& tensor = in_.layout.quantized()[item.tensor];
    const DType stored = in_.layout.stored();
    Buffer memory = acquire(tile_lease(item));
    if (next.phase == Unit::Phase::kFirst) {
      const std::lock_guard lock(mutex_);
      ++tensors_[item.tensor].tiles_read;
    }
    const std::uint64_t codes_at =
        in_.layout.file_offset(tensor.codes) + tensor.tiles.code_ranges(item.index)[0].offset;
    unit.buffer = ItemBuffer(std::move(memory), tensor, item.index, source, stored, codes_at);
  }
  // A device decodes what the bus can carry in a quarter of the time; whoever else takes the tile does so, too.
  const bool for_devices =
      shape_.device_workers > 0 && content == nullptr && devices_solve(in_.layout.quantized()[item.tensor]);
  const auto as = for_devices ? ItemBuffer::ReadAs::kStored : ItemBuffer::ReadAs::kWeights;
  try {
    in_.progress.bytes_read += unit.buffer.read(files_, source, as);
  } catch (const Error& error) {
    throw while_reading(source, error);
  }
  return unit;
}

// What a tile's buffer is made for: a tensor's last tile takes one as large as the others.
std::uint64_t Pipeline::tile_lease(const WorkItem& tile) const {
  const auto bytes = [&](std::int64_t index) {
    return ItemBuffer::tile_bytes(in_.layout.quantized()[tile.tensor], index, source_of(tile), in_.layout.stored());
  };
  return std::max(bytes(0), bytes(tile.index));
}

// Memory for an item. When none is free, held tiles are given up, but never those of a tensor whose tiles have all been
// read: that tensor is decided, and lets go of its tiles, without any further memory. A waiting reader also keeps tiles
// from being held (first_pass_done), so whatever is in flight ends up free.
// Buffers of about one size share it: one of another size takes the place of one that the next tile would have used
// again, and the system clears every page anew.
Buffer Pipeline::acquire(std::uint64_t bytes) {
  const std::uint64_t largest = in_.plan.largest_item_bytes;
  if (bytes >= largest / 4 * 3) bytes = std::max(bytes, largest);
  Buffer memory = pool_.try_acquire(bytes);
  if (!memory.empty()) return memory;
  {
    const std::lock_guard lock(mutex_);
    ++waiting_;
    std::uint64_t promised = 0;
    while (promised < bytes) {
      const std::uint64_t given = give_up_one_locked();
      if (given == 0) break;
      promised += given;
    }
  }
  writing_changed_.notify_all();
  memory = pool_.acquire(bytes);
  const std::lock_guard lock(mutex_);
  --waiting_;
  return memory;
}

// Of the tensor that waits for the most tiles. Returns the bytes that will be free soon; 0 when no tile may be given
// up.
std::uint64_t Pipeline::give_up_one_locked() {
  TensorState* furthest = nullptr;
  std::int64_t most = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].held.empty()) continue;
    const std::int64_t to_come = tiles_to_come_locked(i);
    if (to_come <= most) continue;
    most = to_come;
    furthest = &tensors_[i];
  }
  if (furthest == nullptr) return 0;
  Unit victim = std::move(furthest->held.back());
  furthest->held.pop_back();
  const std::uint64_t bytes = victim.buffer.size();
  give_up_locked(std::move(victim));
  return bytes;
}

// Tiles its decision depends on, also of tensors it shares a scale with, that have no memory yet. Where other ranks
// have some of them, that is never 0.
std::int64_t Pipeline::tiles_to_come_locked(std::size_t tensor) const {
  const auto to_come = [&](std::size_t one) {
    return in_.layout.quantized()[one].tiles.tile_count() - tensors_[one].tiles_read;
  };
  const std::vector<std::size_t>& together = in_.layout.quantized()[tensor].scale_with;
  if (together.empty()) return to_come(tensor);
  std::int64_t sum = 0;
  for (const std::size_t other : together) {
    if (!tensors_[other].decision) sum += to_come(other);
  }
  return sum;
}

}  // namespace halfquad
