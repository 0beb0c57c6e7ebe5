#include "sharding/local_run.h"

#include <new>
#include <utility>

#include "io/journal.h"
#include "sharding/record_keeper.h"

namespace halfquad {
namespace {

/// Passes records on to the real share once they are durable, everything else at once.
class KeptShare final : public WorkShare {
 public:
  KeptShare(WorkShare& inner, RecordKeeper& keeper) : inner_(inner), keeper_(keeper) {}
  void start(OnDecided on_decided) override { inner_.start(std::move(on_decided)); }
  void finish() override { inner_.finish(); }
  [[nodiscard]] std::optional<ItemRange> next() override { return inner_.next(); }
  void add_first_passes(const FirstPasses& passes) override { inner_.add_first_passes(passes); }
  void done(ItemRecord record) override { keeper_.add(std::move(record)); }

 private:
  WorkShare& inner_;
  RecordKeeper& keeper_;
};

}  // namespace

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

LocalRun::LocalRun(const RankJob& job, SafetensorsWriter& writer, const std::filesystem::path& journal,
                   std::span<const std::optional<TensorDecision>> settled, WorkShare& share, ProgressCounters& progress)
    : job_(job), writer_(writer), settled_(settled), share_(share), progress_(progress), thread_([this, journal] {
        work(journal);
      }) {}

LocalRun::~LocalRun() {
  stop();
  thread_.join();
}

void LocalRun::work(const std::filesystem::path& journal) {
  std::optional<Error> journal_error;
  try {
    run_pipeline(journal, journal_error);
    if (!journal_error) writer_.finish();
  } catch (...) {
    outcome_.error = as_error(std::current_exception());
  }
  if (journal_error) outcome_.error = std::move(journal_error);  // the pipeline's own says only that it was stopped
  ended_.store(true, std::memory_order_release);
}

void LocalRun::run_pipeline(const std::filesystem::path& journal, std::optional<Error>& journal_error) {
  JournalWriter records(job_.fs, journal);
  RecordKeeper keeper(
      writer_, records, job_.keep_interval,
      [this](std::vector<ItemRecord> kept) {
        for (ItemRecord& record : kept) share_.done(std::move(record));
      },
      [this, &journal_error](std::exception_ptr error) {
        journal_error = as_error(std::move(error));
        stop();
      });
  KeptShare share(share_, keeper);
  outcome_.stats =
      run_share(job_.fs, job_.checkpoint, job_.layout, job_.plan, writer_, job_.run, settled_, share, progress_, stop_);
  keeper.finish();
  records.close();
}

}  // namespace halfquad
