#include "sharding/simulate.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <numeric>
#include <optional>
#include <queue>
#include <random>
#include <utility>

#include "runtime/check.h"

namespace halfquad {
namespace {

/// Serves one after the other.
class Server {
 public:
  double serve(double now, double seconds) noexcept { return free_at_ = std::max(now, free_at_) + seconds; }

 private:
  double free_at_ = 0;
};

struct Event {
  enum class Kind : std::uint8_t { kAsked, kGranted, kRead, kSolved };
  double time = 0;
  std::uint64_t number = 0;  // the order of events at the same time
  Kind kind = Kind::kAsked;
  int rank = 0;
  ItemRange range;  // kGranted: empty for no more; kRead, kSolved: one item

  friend bool operator>(const Event& a, const Event& b) {
    return a.time != b.time ? a.time > b.time : a.number > b.number;
  }
};

struct RankState {
  int node = 0;
  double slowdown = 1;
  int idle_cores = 0;
  int unsolved = 0;  // read or being read
  bool asking = false, no_more = false;
  bool few_left = false;  // the last piece was a single item
  ItemRange range;
  std::deque<std::size_t> ready;
};

// A tile a worker, those that wait for one, and one a reader: as Pipeline takes them with memory enough.
int items_held_by(int cores) { return cores + (cores + 1) + std::clamp(cores / 2, 4, 16); }

class Simulator {
 public:
  Simulator(const Plan& plan, const std::vector<std::uint64_t>& weights, const SimulationOptions& options);
  Simulation run();

 private:
  void push(double time, Event::Kind kind, int rank, ItemRange range);
  void go_on(double now, int rank);
  void handle(const Event& event);
  void solved(double now, int rank, std::size_t item);
  void write(double now, int rank, std::size_t item);
  [[nodiscard]] RankState& state(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }
  double transfer(double now, std::vector<Server>& nodes, int node, double seconds, std::uint64_t bytes);

  const Plan& plan_;
  const std::vector<std::uint64_t>& weights_;
  const SimulationOptions& options_;
  WorkQueue queue_;
  std::vector<RankState> ranks_;
  std::vector<Server> readers_, writers_;  // of each node
  Server file_system_, coordinator_;
  std::vector<std::size_t> tiles_open_;                         // of each quantized tensor
  std::vector<std::vector<std::pair<int, std::size_t>>> held_;  // rank, item
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t events_made_ = 0;
  int items_held_ = 0;
  int few_ = 0;  // near the end of the job, as Pipeline::may_fetch_locked()
  double cores_ = 0;
  Simulation result_;
};

Simulator::Simulator(const Plan& plan, const std::vector<std::uint64_t>& weights, const SimulationOptions& options)
    : plan_(plan),
      weights_(weights),
      options_(options),
      queue_(plan, options.topology.ranks, options.schedule),
      ranks_(static_cast<std::size_t>(options.topology.ranks)),
      readers_(static_cast<std::size_t>(options.topology.nodes)),
      writers_(static_cast<std::size_t>(options.topology.nodes)),
      items_held_(options.items_held > 0 ? options.items_held : items_held_by(options.rates.cores_per_rank)),
      few_(options.items_held > 0 ? options.items_held : 2 * options.rates.cores_per_rank) {
  for (const WorkItem& item : plan.items) {
    if (item.kind == WorkItem::Kind::kCopy) continue;
    if (tiles_open_.size() <= item.tensor) tiles_open_.resize(item.tensor + 1);
    ++tiles_open_[item.tensor];
  }
  held_.resize(tiles_open_.size());
  for (int rank = 0; rank < options.topology.ranks; ++rank) {
    state(rank).node = options.topology.node_of(rank);
    state(rank).idle_cores = options.rates.cores_per_rank;
  }
  std::vector<std::size_t> order(ranks_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937_64 random(options.seed);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  const double slow = std::ceil(options.stragglers.fraction * static_cast<double>(ranks_.size()));
  for (std::size_t i = 0; i < std::min(order.size(), static_cast<std::size_t>(slow)); ++i) {
    ranks_[order[i]].slowdown = options.stragglers.slowdown;
  }
  for (const RankState& rank : ranks_) cores_ += options.rates.cores_per_rank / rank.slowdown;
}

void Simulator::push(double time, Event::Kind kind, int rank, ItemRange range) {
  events_.push({time, events_made_++, kind, rank, range});
}

double Simulator::transfer(double now, std::vector<Server>& nodes, int node, double seconds, std::uint64_t bytes) {
  const double at_node = nodes[static_cast<std::size_t>(node)].serve(now, seconds);
  const double rate = options_.rates.file_system_bytes_per_s;
  if (rate <= 0) return at_node;
  return std::max(at_node, file_system_.serve(now, static_cast<double>(bytes) / rate));
}

// Starts all that a rank can start: reads, solves, and a request for more.
void Simulator::go_on(double now, int rank) {
  RankState& own = state(rank);
  while (own.range.size() > 0 && own.unsolved < items_held_) {
    const std::size_t item = own.range.begin++;
    const double seconds = seconds_of(plan_.items[item], weights_[item], options_.rates).read;
    const double end = transfer(now, readers_, own.node, seconds, plan_.items[item].read_bytes);
    ++own.unsolved;
    push(end, Event::Kind::kRead, rank, {item, item + 1});
  }
  const bool room = own.unsolved < (own.few_left ? few_ : items_held_);
  if (own.range.size() == 0 && room && !own.asking && !own.no_more) {
    own.asking = true;
    push(now + options_.message_seconds, Event::Kind::kAsked, rank, {});
  }
  while (own.idle_cores > 0 && !own.ready.empty()) {
    const std::size_t item = own.ready.front();
    own.ready.pop_front();
    --own.idle_cores;
    const double seconds = seconds_of(plan_.items[item], weights_[item], options_.rates).solve * own.slowdown;
    push(now + seconds, Event::Kind::kSolved, rank, {item, item + 1});
  }
}

void Simulator::write(double now, int rank, std::size_t item) {
  const double seconds = seconds_of(plan_.items[item], weights_[item], options_.rates).write;
  const double end = transfer(now, writers_, state(rank).node, seconds, plan_.items[item].output_bytes);
  result_.seconds = std::max(result_.seconds, end);
}

void Simulator::solved(double now, int rank, std::size_t item) {
  const std::size_t tensor = plan_.items[item].tensor;
  held_[tensor].emplace_back(rank, item);
  if (--tiles_open_[tensor] > 0) return;
  for (const auto& [holder, tile] : held_[tensor]) write(now, holder, tile);
  held_[tensor] = {};
}

void Simulator::handle(const Event& event) {
  RankState& own = state(event.rank);
  switch (event.kind) {
    case Event::Kind::kAsked: {
      const double answered = coordinator_.serve(event.time, options_.answer_seconds);
      const std::optional<ItemRange> piece = queue_.next(event.rank);
      if (piece) ++result_.pieces;
      push(answered + options_.message_seconds, Event::Kind::kGranted, event.rank, piece.value_or(ItemRange{}));
      return;
    }
    case Event::Kind::kGranted:
      own.asking = false;
      own.range = event.range;
      own.no_more = event.range.size() == 0;
      own.few_left = event.range.size() == 1;
      break;
    case Event::Kind::kRead:
      if (plan_.items[event.range.begin].kind == WorkItem::Kind::kCopy) {
        --own.unsolved;
        write(event.time, event.rank, event.range.begin);
      } else {
        own.ready.push_back(event.range.begin);
      }
      break;
    case Event::Kind::kSolved:
      --own.unsolved;
      ++own.idle_cores;
      solved(event.time, event.rank, event.range.begin);
      break;
  }
  go_on(event.time, event.rank);
}

Simulation Simulator::run() {
  result_.bound = bound_of(plan_, options_.rates, options_.topology, cores_);
  for (int rank = 0; rank < options_.topology.ranks; ++rank) go_on(0, rank);
  while (!events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    handle(event);
  }
  HALFQUAD_REQUIRE(queue_.left() == 0, kInternal, "the simulated job ended with work left");
  return result_;
}

}  // namespace

Simulation simulate(const Plan& plan, const std::vector<std::uint64_t>& weights, const SimulationOptions& options) {
  require_valid(options.topology);
  HALFQUAD_REQUIRE(options.stragglers.fraction >= 0 && options.stragglers.fraction <= 1 &&
                       options.stragglers.slowdown >= 1 && options.stragglers.slowdown <= 1e6,
                   kUsage, "stragglers are a fraction from 0 to 1 and a slowdown from 1 to 1000000, such as 0.02:2");
  return Simulator(plan, weights, options).run();
}

}  // namespace halfquad
