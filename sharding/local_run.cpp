#include "sharding/local_run.h"

#include <algorithm>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr int kMostSenders = 16;

int sending_threads(int threads) { return std::clamp(threads, 4, kMostSenders); }
int receiving_threads(int threads) { return std::clamp(threads / 4, 2, 8); }

}  // namespace

/// Where the pipeline's results go: into the files, or to the rank that writes them.
class LocalRun::Sink final : public OutputSink {
 public:
  explicit Sink(LocalRun& run) : run_(run) {}
  void write(std::span<const OutputPiece> pieces) override {
    const int writer = run_.writer_of(pieces.front().entry);
    if (writer == run_.place_.rank) {
      run_.place_.files->write(pieces);
    } else {
      run_.sender_.write(writer, pieces);
    }
  }

 private:
  LocalRun& run_;
};

/// Passes records on to the keeper that makes them durable, here or on the rank that has the bytes, everything else to
/// the real share.
class LocalRun::Share final : public WorkShare {
 public:
  explicit Share(LocalRun& run) : run_(run) {}
  void start(OnDecided on_decided) override { run_.share_.start(std::move(on_decided)); }
  void finish() override { run_.share_.finish(); }
  [[nodiscard]] std::optional<ItemRange> next() override { return run_.share_.next(); }
  void add_first_passes(FirstPasses passes) override { run_.share_.add_first_passes(std::move(passes)); }
  void done(ItemRecord record) override {
    const int writer = run_.writer_of(record.blocks.front().entry);
    if (writer == run_.place_.rank) {
      run_.keeper_->add(std::move(record));
    } else {
      run_.sender_.keep(writer, record);
    }
  }

 private:
  LocalRun& run_;
};

Error as_error(std::exception_ptr error) noexcept {
  try {
    std::rethrow_exception(std::move(error));
  } catch (const Error& known) {
    return known;
  } catch (const std::bad_alloc&) {
    return {ErrorCode::kOutOfMemory, "the system has no memory left; lower --memory or --threads"};
  } catch (const std::exception& other) {
    return {ErrorCode::kInternal, other.what()};
  }
}

LocalRun::LocalRun(const RankJob& job, const Place& place, WorkShare& share, Outbox& outbox, ProgressCounters& progress)
    : job_(job),
      place_(place),
      share_(share),
      outbox_(outbox),
      progress_(progress),
      sender_(outbox, place.rank, job.run.devices) {
  try {
    open_store();
  } catch (...) {
    store_error_ = as_error(std::current_exception());
    stop();
  }
  thread_ = std::thread([this] { work(); });
}

LocalRun::~LocalRun() {
  stop();
  thread_.join();
}

void LocalRun::stop() noexcept {
  stop_.request();
  sender_.close();
  close();
}

void LocalRun::close() noexcept {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void LocalRun::open_store() {
  if (!place_.role.writes(place_.rank)) return;
  place_.files->combine(combining());
  journal_ =
      std::make_unique<JournalWriter>(job_.fs, JobFolder(job_.fs, job_.partial).journal(place_.run, place_.rank));
  keeper_ = std::make_unique<RecordKeeper>(
      *place_.files, *journal_, job_.keep_interval,
      [this](std::vector<ItemRecord> kept) {
        for (ItemRecord& record : kept) share_.done(std::move(record));
      },
      [this](std::exception_ptr error) { store_failed(std::move(error)); });
  if (!place_.role.receives) return;
  const int threads = receiving_threads(job_.run.threads);
  receiver_ = std::make_unique<ItemReceiver>(
      *place_.files, *keeper_, outbox_,
      ItemReceiver::Options{
          .budget_bytes = memory().receive, .threads = threads, .devices = job_.run.devices, .trace = job_.run.trace},
      [this](std::exception_ptr error) { store_failed(std::move(error)); });
}

void LocalRun::store_failed(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (!store_error_) store_error_ = as_error(std::move(error));
  }
  stop();
}

std::optional<Error> LocalRun::store_error() {
  const std::lock_guard lock(mutex_);
  return store_error_;
}

bool LocalRun::take(Message& message) {
  const auto tag = static_cast<Tag>(message.tag);
  if (!is_between_any_ranks(tag)) return false;
  if (took_answer(tag, message)) return true;
  if (receiver_) take_offer(tag, message);  // else it could not be opened: the job is about to end
  return true;
}

bool LocalRun::took_answer(Tag tag, const Message& message) {
  WireReader in(message.data);
  if (tag == Tag::kGrant) {
    sender_.granted(in.get<std::uint64_t>());
  } else if (tag == Tag::kStored) {
    sender_.stored(in.get<std::uint64_t>());
  } else if (tag == Tag::kAgain) {
    sender_.again(in.get<std::uint64_t>());
  } else if (tag == Tag::kKept) {
    sender_.kept();
  } else if (tag == Tag::kLinkAnswer) {
    sender_.link_answered(message.rank, in);
  } else if (tag == Tag::kLinkLost) {
    sender_.link_lost(message.rank, in);
  } else {
    return false;
  }
  return true;
}

void LocalRun::take_offer(Tag tag, Message& message) {
  WireReader in(message.data);
  if (tag == Tag::kOffer) {
    receiver_->offered(message.rank, in);
  } else if (tag == Tag::kKeep) {
    receiver_->keep(message.rank, in);
  } else if (tag == Tag::kLinkAsk) {
    receiver_->link_asked(message.rank, in);
  } else if (tag == Tag::kLinkItem) {
    receiver_->announced(message.rank, in);
  } else if (tag == Tag::kLinkEnd) {
    receiver_->link_ended(message.rank);
  } else {
    receiver_->arrived(std::move(message));
  }
}

void LocalRun::work() {
  try {
    run_pipeline();
    if (place_.role.receives && !stop_.requested()) wait_for_close();
  } catch (...) {
    outcome_.error = as_error(std::current_exception());
  }
  try {
    close_store();
  } catch (...) {
    if (!outcome_.error) outcome_.error = as_error(std::current_exception());
  }
  // The pipeline's own error says only that it was stopped.
  if (std::optional<Error> error = store_error()) outcome_.error = std::move(error);
  ended_.store(true, std::memory_order_release);
  outbox_.wake();
}

void LocalRun::run_pipeline() {
  Sink sink(*this);
  Share share(*this);
  outcome_.stats = run_share(job_.fs, job_.checkpoint, job_.layout, job_.plan, sink, pipeline_options(), place_.settled,
                             share, progress_, stop_);
  HALFQUAD_REQUIRE(sender_.finish(), kInterrupted, "interrupted: the job was stopped");
}

// By sending and receiving.
std::uint64_t LocalRun::taken() const {
  const AssemblyMemory assembly = memory();
  return assembly.send + assembly.receive;
}

AssemblyMemory LocalRun::memory() const {
  return assembly_memory(place_.role, place_.rank, job_.plan, sending_threads(job_.run.threads), job_.run.memory_bytes);
}

// Of the memory that the rank does not need at least.
std::uint64_t LocalRun::combining() const {
  if (!place_.role.writes(place_.rank)) return 0;
  const std::uint64_t all = job_.run.memory_bytes;
  return combining_memory(job_.layout, all - std::min(all, minimum_memory(job_.plan) + taken()));
}

// What sending, receiving and combining need comes out of the same budget.
RunOptions LocalRun::pipeline_options() const {
  RunOptions options = job_.run;
  if (place_.role.sends(place_.rank)) options.writers = sending_threads(options.threads);
  const std::uint64_t least = minimum_memory(job_.plan) + taken();
  HALFQUAD_REQUIRE(options.memory_bytes >= least, kOutOfMemory,
                   fmt::format("gathering results over ranks needs at least {} of buffers on this rank, but its budget "
                               "is {}; pass --memory {}MiB or more",
                               human_bytes(least), human_bytes(options.memory_bytes), (least + (1 << 20) - 1) >> 20));
  options.memory_bytes -= taken() + combining();
  return options;
}

void LocalRun::wait_for_close() {
  idle_.store(true, std::memory_order_release);
  outbox_.wake();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return closed_; });
}

// What was written is made durable even when the work failed.
void LocalRun::close_store() {
  if (receiver_) {
    receiver_->end();
    outcome_.stats.bytes_received = receiver_->bytes_received();
    outcome_.stats.bytes_by_device_link = receiver_->bytes_by_link();
  }
  if (keeper_) keeper_->finish();
  if (journal_) journal_->close();
  if (place_.files != nullptr) outcome_.stats.peak_buffer_bytes += place_.files->combining_peak_bytes();
  if (!outcome_.error && place_.files != nullptr) place_.files->finish();
}

}  // namespace halfquad
