#include "sharding/job_follower.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr int kLeader = 0;

/// The follower's side of the job, by messages. One request is always under way, so that items are there when the
/// pipeline wants them; not so near the end of the job, where others may have idle cores for them.
class RemoteShare final : public WorkShare {
 public:
  explicit RemoteShare(Outbox& outbox) : outbox_(outbox) {}

  void start(OnDecided on_decided) override {
    listener_.set(std::move(on_decided));
    const std::lock_guard lock(mutex_);
    ask_locked();
  }
  void finish() override { listener_.set({}); }

  [[nodiscard]] std::optional<ItemRange> next() override {
    std::unique_lock lock(mutex_);
    if (!asked_ && !no_more_ && !closed_) ask_locked();
    arrived_.wait(lock, [this] { return closed_ || no_more_ || !ranges_.empty(); });
    if (closed_) throw Error(ErrorCode::kInterrupted, "interrupted: the job was stopped");
    if (ranges_.empty()) return {};
    const ItemRange range = ranges_.front();
    ranges_.pop_front();
    asked_ = false;
    if (range.size() > 1) ask_locked();
    return range;
  }

  void add_first_passes(FirstPasses passes) override {
    WireWriter out;
    passes.write(out);
    outbox_.post(message_to(kLeader, Tag::kPasses, out));
  }

  void done(ItemRecord record) override {
    WireWriter out;
    write_records(out, {&record, 1});
    outbox_.post(message_to(kLeader, Tag::kRecords, out));
  }

  void take_range(WireReader in) {
    const std::lock_guard lock(mutex_);
    if (in.get<bool>()) {
      const auto begin = in.get<std::uint64_t>();
      ranges_.push_back({begin, in.get<std::uint64_t>()});
    } else {
      no_more_ = true;
    }
    arrived_.notify_all();
  }

  void take_decision(WireReader in) {
    const auto tensor = in.get<std::uint64_t>();
    listener_.tell(tensor, TensorDecision::read(in));
  }

  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    arrived_.notify_all();
  }

 private:
  void ask_locked() {
    asked_ = true;
    outbox_.post(message_to(kLeader, Tag::kWant));
  }

  Outbox& outbox_;
  DecisionListener listener_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<ItemRange> ranges_;
  bool asked_ = false;  // and the answer not yet taken
  bool no_more_ = false, closed_ = false;
};

}  // namespace

JobFollower::JobFollower(Communicator& communicator, std::string host, const StopFlag& stop, JobLimits limits)
    : communicator_(communicator),
      host_(std::move(host)),
      stop_(stop),
      limits_(limits),
      heard_(std::chrono::steady_clock::now()),
      next_sign_(heard_ + limits.life_sign) {}

std::optional<Error> JobFollower::run(const RankJob& job) {
  try {
    work(job);
  } catch (...) {
    if (over_) return end_;
    return fail(as_error(std::current_exception()));
  }
  return wait_for_bye();
}

std::optional<Error> JobFollower::fail(const Error& error) {
  post_ended({error, {}});
  return wait_for_bye();
}

void JobFollower::greet(const Fingerprint& fingerprint) {
  WireWriter hello;
  hello.put(host_);
  write_fingerprint(hello, fingerprint);
  outbox_.post(message_to(kLeader, Tag::kHello, hello));
}

std::vector<std::size_t> JobFollower::find_nonfinite(const RankScan& scan) {
  greet(scan.fingerprint);
  const NonfiniteScan::Part part{communicator_.rank(), communicator_.size()};
  const std::vector<std::size_t> found = meanwhile([&](const StopFlag& stop) {
    return scan.scan.find(scan.fs, part, scan.threads, scan.read_mode, progress_, stop);
  });
  post_progress();
  WireWriter out;
  write_tensors(out, found);
  outbox_.post(message_to(kLeader, Tag::kScanned, out));
  const Message all = wait_for(Tag::kNonfinite);
  progress_.bytes_read = 0;  // the job's own counts begin
  progress_.source_bytes_done = 0;
  WireReader in(all.data);
  return read_tensors(in);
}

void JobFollower::work(const RankJob& job) {
  greet(job.fingerprint);
  LocalRun::Place place;
  place.rank = communicator_.rank();
  const Message setup = wait_for(Tag::kSetup);
  WireReader facts(setup.data);
  facts.get(place.run);
  std::string token;
  facts.get(token);
  WireWriter seen;
  seen.put(
      meanwhile([&](const StopFlag& stop) { return find_probe(job.fs, job.partial, token, limits_.probe, stop); }));
  write_devices(seen, job.run.devices == nullptr ? std::vector<SeenDevice>() : job.run.devices->seen());
  outbox_.post(message_to(kLeader, Tag::kSeen, seen));

  const Message part = wait_for(Tag::kRole);
  WireReader in(part.data);
  place.role = AssemblyRole::read(in);
  const std::vector<std::size_t> devices = read_tensors(in);
  if (job.run.devices != nullptr) job.run.devices->keep(devices);
  const std::unique_ptr<WeightFiles> files =
      place.role.writes(place.rank) ? attach_and_check(job, read_records(in)) : nullptr;
  place.files = files.get();

  const Message go = wait_for(Tag::kGo);
  WireReader decisions(go.data);
  std::vector<std::optional<TensorDecision>> settled(job.layout.quantized().size());
  for (std::size_t left = decisions.count(sizeof(std::uint64_t)); left > 0; --left) {
    const auto tensor = decisions.get<std::uint64_t>();
    settled.at(tensor) = TensorDecision::read(decisions);
  }
  place.settled = settled;
  run_pipeline(job, place);
}

std::unique_ptr<WeightFiles> JobFollower::attach_and_check(const RankJob& job, std::span<const ItemRecord> records) {
  std::unique_ptr<WeightFiles> files;
  const std::vector<std::uint64_t> damaged = meanwhile([&](const StopFlag& stop) {
    files = std::make_unique<WeightFiles>(job.fs, job.partial, job.layout,
                                          AttachOptions{.mode = job.write_mode, .stop = &stop});
    return damaged_items(job.fs, job.partial, job.layout, records, job.run.threads, job.run.memory_bytes, stop);
  });
  WireWriter checked;
  checked.put(static_cast<std::uint64_t>(damaged.size()));
  for (const std::uint64_t item : damaged) checked.put(item);
  outbox_.post(message_to(kLeader, Tag::kChecked, checked));
  return files;
}

// Does `work` on another thread, so that this one hears of the job's end and rank 0 hears from it.
template <class Work>
std::invoke_result_t<Work&, const StopFlag&> JobFollower::meanwhile(Work work) {
  StopFlag stop;
  auto result = std::async(std::launch::async, [&] { return work(stop); });
  try {
    while (result.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      if (stop_.requested() || over_) stop.request();
      if (std::optional<Message> message = next_message()) early_.push_back(std::move(*message));
    }
  } catch (...) {
    stop.request();
    throw;
  }
  return result.get();
}

void JobFollower::run_pipeline(const RankJob& job, const LocalRun::Place& place) {
  RemoteShare share(outbox_);
  bool told_idle = false, told = false, told_stop = false;
  LocalRun local(job, place, share, outbox_, progress_);
  const auto wind_up = [&] {
    local.stop();
    share.close();
  };
  for (Message& message : early_) static_cast<void>(local.take(message));
  early_.clear();
  try {
    while (!over_) {
      if (stop_.requested()) wind_up();
      if (local.idle() && !std::exchange(told_idle, true)) outbox_.post(message_to(kLeader, Tag::kIdle));
      if (local.ended() && !std::exchange(told, true)) {
        post_progress();
        post_trace(job);
        post_ended(local.outcome());
      }
      if (told && stop_.requested() && !std::exchange(told_stop, true)) {  // its own work is done, but not the job's
        post_ended({Error(ErrorCode::kInterrupted, "interrupted: a stop was requested"), local.outcome().stats});
      }
      std::optional<Message> message = next_message();
      if (!message || local.take(*message)) continue;
      if (message->tag == static_cast<int>(Tag::kRange)) share.take_range(WireReader(message->data));
      if (message->tag == static_cast<int>(Tag::kDecision)) share.take_decision(WireReader(message->data));
      if (message->tag == static_cast<int>(Tag::kClose)) local.close();
      if (message->tag == static_cast<int>(Tag::kStop)) wind_up();
    }
  } catch (...) {
    wind_up();
    throw;
  }
  wind_up();
}

void JobFollower::post_trace(const RankJob& job) {
  if (job.run.trace == nullptr) return;
  WireWriter out;
  write_events(out, job.run.trace->take());
  outbox_.post(message_to(kLeader, Tag::kTrace, out));
}

// What other ranks send meanwhile is put off: they may have begun before this one.
Message JobFollower::wait_for(Tag tag) {
  const auto wanted = [tag](const Message& message) { return message.tag == static_cast<int>(tag); };
  if (const auto found = std::find_if(early_.begin(), early_.end(), wanted); found != early_.end()) {
    Message message = std::move(*found);
    early_.erase(found);
    return message;
  }
  while (!over_) {
    std::optional<Message> message = next_message();
    if (message && wanted(*message)) return std::move(*message);
    if (message) early_.push_back(std::move(*message));
    if (stop_.requested()) throw Error(ErrorCode::kInterrupted, "interrupted: a stop was requested");
  }
  throw Error(ErrorCode::kInterrupted, "interrupted: the job is over");
}

// Sends what is to be sent and takes the next message; pauses when there is neither.
std::optional<Message> JobFollower::next_message() {
  const auto now = std::chrono::steady_clock::now();
  if (now >= next_sign_) {
    next_sign_ = now + limits_.life_sign;
    post_progress();
  }
  flush();
  std::optional<Message> message = communicator_.receive();
  if (message) {
    heard_ = now;
    outbox_.stay_alert();
    if (message->tag == static_cast<int>(Tag::kBye)) take_bye(*message);
    return message;
  }
  HALFQUAD_REQUIRE(now - heard_ < limits_.silence, kIo,
                   fmt::format("rank 0 has been silent for {}: its process or node is gone; run the same command again "
                               "to continue",
                               seconds_text(limits_.silence)));
  outbox_.rest(communicator_.moving());
  return message;
}

void JobFollower::flush() {
  for (Message& message : outbox_.take()) communicator_.send(std::move(message));
}

void JobFollower::post_progress() {
  WireWriter out;
  out.put(unix_microseconds() + limits_.clock_ahead.count());
  out.put(progress_.bytes_read.load());
  out.put(progress_.bytes_written.load());
  out.put(progress_.weights_done.load());
  out.put(progress_.source_bytes_done.load());
  outbox_.post(message_to(kLeader, Tag::kProgress, out));
}

// With its host: it may never have come to say hello.
void JobFollower::post_ended(const RankOutcome& outcome) {
  WireWriter out;
  out.put(host_);
  write_outcome(out, outcome);
  outbox_.post(message_to(kLeader, Tag::kEnded, out));
}

void JobFollower::take_bye(const Message& message) {
  over_ = true;
  WireReader in(message.data);
  end_ = read_outcome(in).error;
}

std::optional<Error> JobFollower::wait_for_bye() {
  while (!over_) static_cast<void>(next_message());
  return end_;
}

}  // namespace halfquad
