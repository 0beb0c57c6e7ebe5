#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/buffer_pool.h"
#include "sharding/device_scratch.h"
#include "sharding/runner.h"
#include "sharding/stored_tile.h"
#include "sharding/tensor_state.h"
#include "sharding/work_share.h"

namespace halfquad {

/// One rank's pipeline: reader threads fill buffers, solving workers turn them into output bytes, writer threads put
/// those at their final offsets. See run_share() for the contract.
class Pipeline {
 public:
  struct Inputs {
    const Checkpoint& checkpoint;
    const OutputLayout& layout;
    const Plan& plan;
    OutputSink& sink;
    const RunOptions& options;
    std::span<const std::optional<TensorDecision>> settled;
    WorkShare& share;
    ProgressCounters& progress;
    const StopFlag& stop;
  };

  Pipeline(FileSystem& fs, const Inputs& inputs);
  [[nodiscard]] PipelineStats run();

 private:
  // Threads and queue lengths that fit the budget.
  struct Shape {
    int readers = 1, workers = 1, writers = 1;
    int device_workers = 0;
    std::size_t ready_limit = 1;    // tiles read and not yet solved
    std::size_t writing_limit = 1;  // items solved and not yet written
  };
  static Shape shape_for(const Inputs& inputs);

  void start_threads();
  void read_loop(const std::string& lane);
  void solve_loop(const std::string& lane);
  void device_loop(const std::string& lane, int worker);
  void write_loop(const std::string& lane);
  template <class Body>
  void guarded(Body body) noexcept;
  void fail(std::exception_ptr error) noexcept;
  void check_stop() const;
  void watch_stop();
  using Time = std::chrono::steady_clock::time_point;
  [[nodiscard]] static double seconds_since(Time start);
  void trace(const std::string& lane, std::string_view what, const WorkItem& item, Time start) const;

  // Reading.
  struct NextRead {
    std::size_t item = 0;
    Unit::Phase phase = Unit::Phase::kFirst;
  };
  [[nodiscard]] std::optional<NextRead> next_read();
  void fetch_range(std::unique_lock<std::mutex>& lock);
  [[nodiscard]] bool may_fetch_locked() const;
  [[nodiscard]] bool room_for_ready_locked() const;
  [[nodiscard]] bool postpone_locked(std::size_t item) const;
  [[nodiscard]] Unit read(const NextRead& next);
  [[nodiscard]] std::uint64_t tile_lease(const WorkItem& tile) const;
  [[nodiscard]] Buffer acquire(std::uint64_t bytes);
  [[nodiscard]] std::uint64_t give_up_one_locked();
  [[nodiscard]] std::int64_t tiles_to_come_locked(std::size_t tensor) const;

  // Solving.
  // One tile on its way through a worker.
  struct Pass {
    Unit unit;
    TileSolver::Job job;
    std::shared_ptr<const std::vector<float>> importance;  // job.importance, where a file gives it
    FirstPasses found;                                     // of a first pass
    bool solve = true;                                     // else only the range is wanted
    int redo_after = kAllStrips;                           // only strips whose zeros still moved after this step
    bool solved = false;
    std::uint64_t strips = 0;  // solved
  };
  static constexpr int kAllStrips = -1;
  [[nodiscard]] std::vector<Unit> next_solve(std::uint64_t batch_weights);
  void worker_gone();
  // What a device worker has beside a solver of its own.
  struct DeviceLane {
    DeviceSolver& solver;
    int worker;
    DeviceScratch scratch;
  };
  void solve_units(TileSolver& host, DeviceLane* device, std::vector<Unit> units, const std::string& lane);
  [[nodiscard]] Pass begin_pass(Unit unit);
  void solve_on_device(DeviceLane& device, std::span<Pass> passes);
  void solve_on_host(TileSolver& solver, Pass& pass);
  void look_over(TileSolver& solver, Pass& pass);
  static void add_levels(TileSolver& solver, Pass& pass);
  [[nodiscard]] bool stands_as_it_is(const Unit& unit, const TensorDecision& decision) const;
  void end_pass(Pass pass, double seconds);
  void clear_nonfinite(Unit& unit, const QuantizedTensor& tensor);
  [[nodiscard]] std::string range_error(const SourceTensor& source) const;
  void first_pass_done(Unit unit, FirstPasses passes);
  void give_up_locked(Unit unit);
  void decided(std::size_t tensor, const TensorDecision& decision);
  void settle_given_up_locked(std::size_t tensor);

  // Writing.
  void push_write(Unit unit);
  [[nodiscard]] std::optional<Unit> next_write();
  void write(Unit& unit);
  [[nodiscard]] std::uint64_t copied_to(const Unit& unit) const;
  void write_tile(Unit& unit);
  [[nodiscard]] std::array<std::array<std::byte, sizeof(float)>, 2> grid_bytes(const QuantizedTensor& tensor,
                                                                               const FixedGrid& grid) const;
  void written_ahead(Unit unit);
  void item_done(ItemRecord record);
  void put(ItemRecord& record, std::span<const OutputPiece> pieces);

  [[nodiscard]] const WorkItem& item_of(const Unit& unit) const { return in_.plan.items[unit.item]; }
  [[nodiscard]] const SourceTensor& source_of(const WorkItem& item) const;
  [[nodiscard]] std::uint64_t weights_of(const WorkItem& item) const;

  Inputs in_;
  OpenCheckpoint files_;
  Shape shape_;
  BufferPool pool_;  // outlives every Unit below

  std::mutex mutex_;  // guards all below
  // By who waits: waking everybody for every tile would cost more than some tiles do.
  std::condition_variable reading_changed_;  // readers for something to read
  std::condition_variable ready_room_;       // readers for room among the tiles to be solved
  std::condition_variable ready_changed_;    // workers for tiles
  std::condition_variable writing_room_;     // whoever has something for the writers
  std::condition_variable writing_changed_;  // writers
  std::condition_variable ended_;            // watch_stop()
  std::vector<TensorState> tensors_;
  ItemRange range_;                    // items to be read next
  bool fetching_ = false;              // a reader is asking for more
  bool no_more_ = false;               // items, beside those to be read again
  bool few_left_ = false;              // the job is near its end: items come one by one
  std::size_t unsolved_ = 0;           // tiles taken whose first pass is not done
  std::size_t undecided_ = 0;          // tensors that are TensorState::undecided
  std::deque<std::size_t> again_;      // items to be read again, before anything new
  std::deque<std::size_t> postponed_;  // copies, to be read once the workers have enough
  std::deque<Unit> ready_;             // read, to be solved
  std::uint64_t ready_weights_ = 0;    // in ready_
  std::deque<Unit> writing_;           // to be written; no more than shape_.writing_limit
  std::deque<Unit> let_go_;            // the same: tiles that were held, so no limit would keep any memory free
  int waiting_ = 0;                    // readers that wait for memory
  int readers_running_ = 0, workers_running_ = 0;
  bool failed_ = false;
  std::exception_ptr error_;
  PipelineStats stats_;
};

}  // namespace halfquad
