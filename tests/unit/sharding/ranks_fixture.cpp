#include "tests/unit/sharding/ranks_fixture.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>

#include "io/output_directory.h"
#include "sharding/job_follower.h"
#include "sharding/wire.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/hooked_solver.h"

namespace halfquad::test {
namespace {

/// Passes messages on; notes which tensors are divided between ranks, and can be unplugged.
class WatchedCommunicator final : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> inner, const OutputLayout& layout, int unplugged_after)
      : inner_(std::move(inner)), layout_(layout), unplugged_after_(unplugged_after) {}

  [[nodiscard]] int rank() const noexcept override { return inner_->rank(); }
  [[nodiscard]] int size() const noexcept override { return inner_->size(); }
  [[nodiscard]] int local_size() const noexcept override { return inner_->local_size(); }
  [[nodiscard]] int local_rank() const noexcept override { return inner_->local_rank(); }
  [[nodiscard]] std::string name() const override { return inner_->name(); }
  void send(Message message) override {
    if (!unplugged()) inner_->send(std::move(message));
  }
  [[nodiscard]] std::optional<Message> receive() override {
    if (unplugged()) return std::nullopt;
    std::optional<Message> message = inner_->receive();
    if (message) ++received_;
    if (message && message->tag == static_cast<int>(Tag::kPasses)) {
      WireReader in(message->data);
      const FirstPasses passes = FirstPasses::read(in);
      if (passes.tiles < layout_.quantized()[passes.tensor].tiles.tile_count()) divided.insert(passes.tensor);
    }
    return message;
  }
  [[nodiscard]] std::size_t unsent() const noexcept override { return inner_->unsent(); }
  [[noreturn]] void abort(int exit_code) noexcept override { std::_Exit(exit_code); }

  std::set<std::size_t> divided;

 private:
  [[nodiscard]] bool unplugged() const noexcept { return unplugged_after_ > 0 && received_ >= unplugged_after_; }

  std::unique_ptr<Communicator> inner_;
  const OutputLayout& layout_;
  const int unplugged_after_;
  int received_ = 0;
};

std::optional<Error> follow(Communicator& communicator, const RankJob& job, const StopFlag& stop, JobLimits limits) {
  try {
    return JobFollower(communicator, "host-" + std::to_string(communicator.rank()), stop, limits).run(job);
  } catch (const Error& error) {
    return error;
  }
}

OddRank odd_rank(const RanksRun& how, int rank) {
  const auto found = how.odd.find(rank);
  return found == how.odd.end() ? OddRank{} : found->second;
}

JobLimits limits_of(const RanksRun& how, int rank) {
  JobLimits limits = how.limits;
  limits.clock_ahead = odd_rank(how, rank).clock_ahead;
  return limits;
}

}  // namespace

Fingerprint RanksOutput::fingerprint() const {
  return fingerprint_of(model_.checkpoint(), model_.layout(), "error", "1.0");
}

RankJob RanksOutput::job(const RanksRun& how, int rank) const {
  const OddRank odd = odd_rank(how, rank);
  RankJob job{.fs = odd.fs != nullptr ? *odd.fs : model_.files(),
              .checkpoint = model_.checkpoint(),
              .layout = model_.layout(),
              .plan = model_.plan(),
              .partial = odd.blind ? elsewhere() : partial(),
              .run = how.options,
              .schedule = how.schedule,
              .assembly = how.assembly,
              .fingerprint = odd.fingerprint.value_or(how.fingerprint.value_or(fingerprint())),
              .keep_interval = std::chrono::milliseconds(5)};
  if (odd.memory_bytes > 0) job.run.memory_bytes = odd.memory_bytes;
  if (odd.devices != nullptr) job.run.devices = odd.devices;
  if (odd.make_solver) job.run.make_solver = odd.make_solver;
  return job;
}

RanksOutcome RanksOutput::run(const RanksRun& how) const {
  const auto start = std::chrono::steady_clock::now();
  OutputDirectory directory(model_.files(), temp_.path() / "out", {}, Overwrite::kNo, Leftover::kKeep);
  std::vector<StopFlag> never(static_cast<std::size_t>(how.ranks));
  std::vector<StopFlag>& stops = how.stops != nullptr ? *how.stops : never;
  std::vector<std::unique_ptr<WatchedCommunicator>> communicators;
  for (auto& communicator : make_thread_communicators(how.ranks)) {
    const int rank = communicator->rank();
    communicators.push_back(std::make_unique<WatchedCommunicator>(std::move(communicator), model_.layout(),
                                                                  odd_rank(how, rank).unplugged_after));
  }

  RanksOutcome outcome;
  outcome.followers.resize(static_cast<std::size_t>(how.ranks - 1));
  std::vector<std::jthread> threads;
  for (int rank = 1; rank < how.ranks; ++rank) {
    if (odd_rank(how, rank).mute) continue;
    threads.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      outcome.followers[at - 1] = follow(*communicators[at], job(how, rank), stops[at], limits_of(how, rank));
    });
  }

  ProgressCounters progress;
  {
    JobLeader leader(
        *communicators[0], "host-0", stops[0], [&](const std::string& warning) { outcome.warnings.push_back(warning); },
        how.limits);
    try {
      outcome.result = leader.run(job(how, 0), directory.resumed(), progress);
      outcome.file = model_.written(partial());
      leader.succeed();
    } catch (const Error& error) {
      outcome.error = error;
      outcome.unanswered = leader.fail(error);
    }
    outcome.resume = leader.resume_facts();
    outcome.facts = leader.ranks();
    outcome.assembly = leader.assembly();
  }
  threads.clear();
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.weights_done = progress.weights_done;
  outcome.source_bytes_done = progress.source_bytes_done;
  outcome.tensors_done = progress.tensors_done;
  outcome.divided = communicators[0]->divided;
  if (!outcome.error) directory.discard();
  return outcome;
}

std::vector<std::filesystem::path> RanksOutput::journals() const {
  std::vector<std::filesystem::path> journals;
  for (const auto& entry : std::filesystem::directory_iterator(partial() / kPrivateFolder)) {
    if (entry.path().filename().string().starts_with("journal-")) journals.push_back(entry.path());
  }
  std::sort(journals.begin(), journals.end());
  return journals;
}

std::vector<ItemRecord> RanksOutput::finished() const {
  std::map<std::uint64_t, ItemRecord> items;
  for (ItemRecord& record : JobFolder(model_.files(), partial()).records(model_.plan(), model_.layout())) {
    items[record.item] = std::move(record);
  }
  std::vector<ItemRecord> records;
  for (auto& [item, record] : items) records.push_back(std::move(record));
  return records;
}

std::uint64_t RanksOutput::offset_of(const BlockSum& block) const {
  const BlockLayout& blocks = model_.layout().contents()[block.entry].blocks;
  std::uint64_t offset = 0;
  while (blocks.block_at(offset) != block.block) offset += blocks.block_length(offset);
  return std::filesystem::file_size(weights()) - model_.layout().data_bytes() +
         model_.layout().entries()[block.entry].begin + offset;
}

std::uint64_t RanksOutput::open_weights(const std::vector<ItemRecord>& finished) const {
  std::set<std::uint64_t> done;
  for (const ItemRecord& record : finished) done.insert(record.item);
  std::uint64_t weights = 0;
  for (std::size_t i = 0; i < model_.plan().items.size(); ++i) {
    const WorkItem& item = model_.plan().items[i];
    if (item.kind != WorkItem::Kind::kTile || done.contains(i)) continue;
    const SourceTensor& source = model_.checkpoint().tensors()[model_.layout().quantized()[item.tensor].source];
    weights += item.source_bytes / static_cast<std::uint64_t>(bytes_of(source.dtype));
  }
  return weights;
}

void flip_byte(const std::filesystem::path& file, std::uint64_t offset) {
  std::string bytes = get_file(file);
  bytes.at(offset) = static_cast<char>(bytes.at(offset) ^ 1);
  put_file(file, bytes);
}

void expect_ended_with(const RanksOutcome& job, ErrorCode code, std::initializer_list<std::string_view> parts) {
  ASSERT_TRUE(job.error);
  expect_error(code, parts, [&] { throw *job.error; });
  for (const auto& follower : job.followers) {
    ASSERT_TRUE(follower);
    EXPECT_EQ(static_cast<int>(follower->code()), static_cast<int>(code)) << follower->what();
  }
  EXPECT_FALSE(job.unanswered);
  EXPECT_LT(job.seconds, 5);
}

RanksOutcome interrupted(const RanksOutput& output, RanksRun how, int at, int rank) {
  std::vector<StopFlag> stops(static_cast<std::size_t>(how.ranks));
  std::atomic<int> blocks = 0;
  how.stops = &stops;
  how.options.make_solver = [&] {
    return std::make_unique<HookedSolver>([&] {
      if (++blocks == at) stops[static_cast<std::size_t>(rank)].request();
    });
  };
  return output.run(how);
}

}  // namespace halfquad::test
