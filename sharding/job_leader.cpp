#include "sharding/job_leader.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "io/output_directory.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::chrono::milliseconds kPause{1};
constexpr std::chrono::milliseconds kBoardInterval{200};

}  // namespace

/// This rank's own share, without messages.
class JobLeader::OwnShare final : public WorkShare {
 public:
  explicit OwnShare(JobLeader& leader) : leader_(leader) {}
  void start(OnDecided on_decided) override { listener_.set(std::move(on_decided)); }
  void finish() override { listener_.set({}); }
  [[nodiscard]] std::optional<ItemRange> next() override { return leader_.next_items(kSelf); }
  void add_first_passes(FirstPasses passes) override {
    for (const DecidedTensor& decided : leader_.add_passes(kSelf, std::move(passes))) tell(decided);
  }
  void done(ItemRecord record) override { leader_.add_record(record); }
  void tell(const DecidedTensor& decided) { listener_.tell(decided.tensor, decided.decision); }

 private:
  JobLeader& leader_;
  DecisionListener listener_;
};

JobLeader::JobLeader(Communicator& communicator, std::string host, const StopFlag& stop, Warn warn, JobLimits limits)
    : communicator_(communicator),
      stop_(stop),
      warn_(std::move(warn)),
      limits_(limits),
      peers_(static_cast<std::size_t>(communicator.size())),
      facts_(static_cast<std::size_t>(communicator.size())) {
  facts_[kSelf].host = std::move(host);
}

JobLeader::~JobLeader() {
  try {
    if (!over_) static_cast<void>(fail(Error(ErrorCode::kInternal, "rank 0 left the job")));
  } catch (const Error&) {
    // The others find out by its silence.
  }
}

RunResult JobLeader::run(const RankJob& job, bool resumed, ProgressCounters& progress) {
  std::vector<ItemRecord> records;
  const std::unique_ptr<WeightFiles> files = set_up(job, resumed, records);
  ledger_ = std::make_unique<Ledger>(job.plan, job.layout);
  ledger_->add_constants();
  check_records(job, records);
  share_importance(job, records);
  std::erase_if(records, [&](const ItemRecord& record) {
    return std::binary_search(damaged_.begin(), damaged_.end(), record.item);
  });
  for (const ItemRecord& record : records) ledger_->add(record);
  resume_ = {records.size(), damaged_.size(), ledger_->source_bytes_done()};

  const auto settled = hand_over_decisions(job, records);
  queue_ = std::make_unique<WorkQueue>(job.plan, communicator_.size(), job.schedule, ledger_->done());
  board_ = std::make_unique<DecisionBoard>(job.layout, settled);
  contributors_.assign(job.layout.quantized().size(), {});
  run_pipelines(job,
                {.rank = kSelf, .run = run_number_, .role = roles_[kSelf], .files = files.get(), .settled = settled},
                progress);

  HALFQUAD_REQUIRE(ledger_->complete(), kInternal,
                   fmt::format("{} items were never finished, though every rank says it is done", ledger_->left()));
  RunResult result;
  for (const RankFacts& rank : facts_) result.add(rank.stats);
  result.tensors = ledger_->tensors();
  result.checksums = ledger_->checksums();
  return result;
}

// ---- the work

void JobLeader::run_pipelines(const RankJob& job, const LocalRun::Place& place, ProgressCounters& shown) {
  ProgressCounters own;
  OwnShare share(*this);
  running_ = true;
  own_share_ = &share;
  {
    LocalRun local(job, place, share, outbox_, own);
    local_ = &local;
    for (Message& message : early_) static_cast<void>(local.take(message));
    work_along(local, own, shown);
    if (local.ended()) facts_[kSelf].stats = local.outcome().stats;
    if (local.ended() && local.outcome().error) note_failure(kSelf, *local.outcome().error);
    local_ = nullptr;
  }
  own_share_ = nullptr;
  show_progress(own, shown);
  facts_[kSelf].bytes_read = own.bytes_read;
  facts_[kSelf].bytes_written = own.bytes_written;
  facts_[kSelf].weights = own.weights_done;
  if (first_error_) throw *first_error_;
}

// Until every rank's work is over, or there is no more waiting for it.
void JobLeader::work_along(LocalRun& local, const ProgressCounters& own, ProgressCounters& shown) {
  bool closed = false;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  while (!(local.ended() && all_ended())) {
    if (stop_.requested()) note_stop();
    if (local.ended() && local.outcome().error) note_failure(kSelf, *local.outcome().error);
    if (first_error_ && !deadline) {
      deadline = std::chrono::steady_clock::now() + limits_.wind_up;
      wind_up();
      local.stop();
    }
    if ((local.idle() || local.ended()) && nobody_sends() && !std::exchange(closed, true)) {
      local.close();
      for (int rank = 1; rank < communicator_.size(); ++rank) outbox_.post(message_to(rank, Tag::kClose));
    }
    if (deadline && std::chrono::steady_clock::now() > *deadline) return;
    show_progress(own, shown);
    if (!pump()) outbox_.rest(communicator_.moving());
  }
}

std::optional<ItemRange> JobLeader::next_items(int rank) {
  const std::lock_guard lock(mutex_);
  return queue_->next(rank);
}

// Returns the decisions that rank 0's own pipeline has waited for; the others are sent theirs.
std::vector<DecidedTensor> JobLeader::add_passes(int rank, FirstPasses passes) {
  const std::size_t tensor = passes.tensor;
  std::vector<DecidedTensor> decided;
  std::vector<std::vector<int>> ranks;  // that wait, for each of them
  {
    const std::lock_guard lock(mutex_);
    decided = board_->add(std::move(passes));
    std::vector<int>& waiting = contributors_[tensor];
    if (std::find(waiting.begin(), waiting.end(), rank) == waiting.end()) waiting.push_back(rank);
    for (const DecidedTensor& one : decided) ranks.push_back(std::exchange(contributors_[one.tensor], {}));
  }
  std::vector<DecidedTensor> own;
  for (std::size_t i = 0; i < decided.size(); ++i) {
    for (const int waiting : ranks[i]) {
      if (waiting == kSelf) {
        own.push_back(decided[i]);
      } else {
        send_decision(waiting, decided[i]);
      }
    }
  }
  return own;
}

void JobLeader::send_decision(int rank, const DecidedTensor& decided) {
  WireWriter out;
  out.put(static_cast<std::uint64_t>(decided.tensor));
  decided.decision.write(out);
  outbox_.post(message_to(rank, Tag::kDecision, out));
}

void JobLeader::add_record(const ItemRecord& record) {
  const std::lock_guard lock(mutex_);
  ledger_->add(record);
}

void JobLeader::show_progress(const ProgressCounters& own, ProgressCounters& shown) {
  std::uint64_t read = own.bytes_read, written = own.bytes_written, weights = own.weights_done;
  std::uint64_t source_bytes = own.source_bytes_done + resume_.source_bytes;
  for (const Peer& peer : peers_) {
    read += peer.bytes_read;
    written += peer.bytes_written;
    weights += peer.weights;
    source_bytes += peer.source_bytes;
  }
  shown.bytes_read = read;
  shown.bytes_written = written;
  shown.weights_done = weights;
  shown.source_bytes_before = resume_.source_bytes;
  shown.source_bytes_done = source_bytes;
  show_ranks(own);
  const std::lock_guard lock(mutex_);
  shown.tensors_done = ledger_->tensors_done();
}

void JobLeader::show_ranks(const ProgressCounters& own) {
  const auto now = std::chrono::steady_clock::now();
  if (board_of_ranks_ == nullptr || (now < next_board_ && local_ != nullptr)) return;
  next_board_ = now + kBoardInterval;
  std::vector<RankProgress> ranks;
  for (std::size_t rank = 0; rank < peers_.size(); ++rank) {
    const Peer& peer = peers_[rank];
    ranks.push_back({.rank = static_cast<int>(rank),
                     .host = facts_[rank].host,
                     .bytes_read = peer.bytes_read,
                     .bytes_written = peer.bytes_written,
                     .weights_done = peer.weights,
                     .source_bytes_done = peer.source_bytes,
                     .silent_seconds = std::chrono::duration<double>(now - peer.heard).count(),
                     .ended = peer.ended});
  }
  ranks[kSelf] = {.rank = kSelf,
                  .host = facts_[kSelf].host,
                  .bytes_read = own.bytes_read,
                  .bytes_written = own.bytes_written,
                  .weights_done = own.weights_done,
                  .source_bytes_done = own.source_bytes_done,
                  .ended = local_ == nullptr || local_->ended()};
  board_of_ranks_->set(std::move(ranks));
}

std::uint64_t JobLeader::saved_source_bytes() const {
  const std::lock_guard lock(mutex_);
  return ledger_ == nullptr ? 0 : ledger_->source_bytes_done();
}

// ---- messages

void JobLeader::handle(Message& message) {
  const int rank = message.rank;
  Peer& peer = peers_.at(static_cast<std::size_t>(rank));
  peer.heard = std::chrono::steady_clock::now();
  WireReader in(message.data);
  const auto tag = static_cast<Tag>(message.tag);
  if (is_between_any_ranks(tag)) {
    if (local_ != nullptr) {
      static_cast<void>(local_->take(message));
    } else if (!running_) {
      early_.push_back(std::move(message));
    }
  } else if (took_answer(tag, rank, in)) {
    return;
  } else if (tag == Tag::kWant) {
    answer_want(rank);
  } else if (tag == Tag::kPasses) {
    for (const DecidedTensor& decided : add_passes(rank, FirstPasses::read(in))) {
      if (own_share_ != nullptr) own_share_->tell(decided);
    }
  } else if (tag == Tag::kRecords) {
    for (const ItemRecord& record : read_records(in)) add_record(record);
  } else if (tag == Tag::kProgress) {
    took_progress(rank, in);
  } else if (tag == Tag::kIdle) {
    peer.idle = true;
  } else if (tag == Tag::kTrace) {
    if (trace_ != nullptr) trace_->add(by_own_clock(rank, read_events(in)));
  } else if (tag == Tag::kEnded) {
    took_ended(rank, message);
  } else {
    throw Error(ErrorCode::kInternal,
                fmt::format("{} sent message {}, which is rank 0's", name_of_rank(rank), message.tag));
  }
}

// What ranks say before the work.
bool JobLeader::took_answer(Tag tag, int rank, WireReader in) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  if (tag == Tag::kHello) {
    took_hello(rank, in);
  } else if (tag == Tag::kScanned) {
    peer.scanned = true;
    const std::vector<std::size_t> tensors = read_tensors(in);
    nonfinite_.insert(nonfinite_.end(), tensors.begin(), tensors.end());
  } else if (tag == Tag::kSeen) {
    peer.looked = true;
    in.get(peer.sees);
    peer.devices = read_devices(in);
  } else if (tag == Tag::kChecked) {
    peer.checked = true;
    for (std::size_t left = in.count(sizeof(std::uint64_t)); left > 0; --left) {
      damaged_.push_back(in.get<std::uint64_t>());
    }
  } else {
    return false;
  }
  return true;
}

void JobLeader::took_progress(int rank, WireReader in) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  RankFacts& facts = facts_[static_cast<std::size_t>(rank)];
  took_clock(rank, in.get<std::int64_t>());
  in.get(peer.bytes_read);
  in.get(peer.bytes_written);
  in.get(peer.weights);
  in.get(peer.source_bytes);
  facts.bytes_read = peer.bytes_read;
  facts.bytes_written = peer.bytes_written;
  facts.weights = peer.weights;
}

void JobLeader::took_hello(int rank, WireReader in) {
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  peer.greeted = true;
  peer.bytes_read = peer.source_bytes = 0;  // of a scan
  in.get(facts_[static_cast<std::size_t>(rank)].host);
  const std::string different = differences(fingerprint_, read_fingerprint(in));
  if (different.empty()) return;
  note_failure(kNobody, Error(ErrorCode::kUsage, fmt::format("{} differs from rank 0 in {}; start all ranks with the "
                                                             "same program, arguments and files",
                                                             name_of_rank(rank), different)));
}

// A message that took long makes the sender's clock seem late: the earliest-looking of several is nearest to the truth.
void JobLeader::took_clock(int rank, std::int64_t theirs) {
  constexpr int kEnough = 4;
  constexpr double kWorthAWarning = 2e6;
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  const std::int64_t ahead = theirs - (unix_microseconds() + limits_.clock_ahead.count());
  peer.clock_ahead_us = peer.clocks_seen++ == 0 ? ahead : std::max(peer.clock_ahead_us, ahead);
  const auto apart = static_cast<double>(peer.clock_ahead_us);
  if (peer.clocks_seen != kEnough || std::abs(apart) < kWorthAWarning) return;
  warn_(
      fmt::format("the clock of {} is {:.1f} s {} that of rank 0; nothing in the job depends on it, but times of files "
                  "and logs will not agree",
                  name_of_rank(rank), std::abs(apart) / 1e6, apart > 0 ? "ahead of" : "behind"));
}

std::vector<Trace::Event> JobLeader::by_own_clock(int rank, std::vector<Trace::Event> events) const {
  for (Trace::Event& event : events) event.start_us -= peers_[static_cast<std::size_t>(rank)].clock_ahead_us;
  return events;
}

// One rank answers all, whatever their number. 1024 of them that go through 1T weights in 3.2 s want 30,400 pieces, so
// 9,400 a second (`plan --preset kimi-1t --simulate --ranks 1024`); an answer takes 2 to 4 us of a core
// (tests/bench/bench_hand_out.cpp), which is 250,000 a second and more: a second level of hand-out would gain nothing.
void JobLeader::answer_want(int rank) {
  const std::optional<ItemRange> range = first_error_ ? std::nullopt : next_items(rank);
  WireWriter out;
  out.put(range.has_value());
  out.put(static_cast<std::uint64_t>(range.value_or(ItemRange{}).begin));
  out.put(static_cast<std::uint64_t>(range.value_or(ItemRange{}).end));
  outbox_.post(message_to(rank, Tag::kRange, out));
}

void JobLeader::took_ended(int rank, const Message& message) {
  WireReader in(message.data);
  in.get(facts_[static_cast<std::size_t>(rank)].host);
  const RankOutcome outcome = read_outcome(in);
  peers_[static_cast<std::size_t>(rank)].ended = true;
  facts_[static_cast<std::size_t>(rank)].stats = outcome.stats;
  if (outcome.error) note_failure(rank, *outcome.error);
}

// Sends and receives what there is; false when there was nothing.
bool JobLeader::pump() {
  const auto now = std::chrono::steady_clock::now();
  if (now >= next_sign_) {
    next_sign_ = now + 10 * limits_.life_sign;
    for (int rank = 1; rank < communicator_.size(); ++rank) outbox_.post(message_to(rank, Tag::kAlive));
  }
  bool busy = false;
  for (Message& message : outbox_.take()) {
    communicator_.send(std::move(message));
    busy = true;
  }
  while (std::optional<Message> message = communicator_.receive()) {
    outbox_.stay_alert();
    handle(*message);
    busy = true;
  }
  if (!busy) check_silence();
  return busy;
}

void JobLeader::wait_for_all(bool Peer::*arrived) {
  wait_until(
      [&] { return std::all_of(peers_.begin() + 1, peers_.end(), [&](const Peer& peer) { return peer.*arrived; }); });
}

void JobLeader::wait_until(const std::function<bool()>& done) {
  while (!done()) {
    if (stop_.requested()) note_stop();
    if (first_error_) throw *first_error_;
    if (!pump()) outbox_.rest(communicator_.moving());
  }
  if (first_error_) throw *first_error_;
}

void JobLeader::check_silence() {
  const auto now = std::chrono::steady_clock::now();
  for (std::size_t rank = 1; rank < peers_.size(); ++rank) {
    if (peers_[rank].ended || now - peers_[rank].heard < limits_.silence) continue;
    peers_[rank].lost = true;
    note_failure(kNobody, Error(ErrorCode::kInterrupted,
                                fmt::format("{} has been silent for {}: its process or node is gone",
                                            name_of_rank(static_cast<int>(rank)), seconds_text(limits_.silence))));
  }
}

// ---- the end

void JobLeader::note_stop() {
  if (first_error_) return;
  warn_("stopping, for a signal asks to: what is finished is being saved; a second signal ends at once");
  note_failure(kNobody, Error(ErrorCode::kInterrupted, "interrupted by a signal"));
}

void JobLeader::note_failure(int rank, const Error& error) {
  if (first_error_) return;
  const bool plain = communicator_.size() == 1 || rank == kNobody || error.code() == ErrorCode::kInterrupted;
  first_error_.emplace(error.code(), plain ? error.what() : fmt::format("{}: {}", name_of_rank(rank), error.what()),
                       error.where());
}

void JobLeader::wind_up() {
  for (int rank = 1; rank < communicator_.size(); ++rank) outbox_.post(message_to(rank, Tag::kStop));
}

bool JobLeader::all_ended() const {
  return std::all_of(peers_.begin() + 1, peers_.end(), [](const Peer& peer) { return peer.ended; });
}

bool JobLeader::nobody_sends() const {
  return std::all_of(peers_.begin() + 1, peers_.end(), [](const Peer& peer) { return peer.ended || peer.idle; });
}

void JobLeader::succeed() { say_bye({}); }

bool JobLeader::fail(const Error& error) {
  if (over_) return false;
  // Ranks that wait for this one are let go; what they still send is of no interest.
  say_bye(error);
  const bool lost = std::any_of(peers_.begin() + 1, peers_.end(), [](const Peer& peer) { return peer.lost; });
  return lost || (running_ && !all_ended());
}

void JobLeader::say_bye(const std::optional<Error>& error) {
  if (over_) return;
  over_ = true;
  for (int rank = 1; rank < communicator_.size(); ++rank) {
    WireWriter out;
    write_outcome(out, {error, {}});
    outbox_.post(message_to(rank, Tag::kBye, out));
  }
  const auto deadline = std::chrono::steady_clock::now() + limits_.wind_up;
  for (Message& message : outbox_.take()) communicator_.send(std::move(message));
  while (communicator_.unsent() > 0 && std::chrono::steady_clock::now() < deadline) {
    if (!communicator_.receive()) std::this_thread::sleep_for(kPause);
  }
}

std::string JobLeader::name_of_rank(int rank) const {
  const std::string& host = facts_[static_cast<std::size_t>(rank)].host;
  return host.empty() ? fmt::format("rank {}", rank) : fmt::format("rank {} on {}", rank, quoted(host));
}

}  // namespace halfquad
