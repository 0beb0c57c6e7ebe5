#include "sharding/record_keeper.h"

#include <utility>

#include "sharding/wire.h"

namespace halfquad {

RecordKeeper::RecordKeeper(WeightFiles& files, JournalWriter& journal, std::chrono::milliseconds interval,
                           OnKept on_kept, OnError on_error)
    : files_(files),
      journal_(journal),
      interval_(interval),
      on_kept_(std::move(on_kept)),
      on_error_(std::move(on_error)),
      thread_([this] { loop(); }) {}

RecordKeeper::~RecordKeeper() { finish(); }

void RecordKeeper::add(ItemRecord record) {
  const std::lock_guard lock(mutex_);
  pending_.push_back(std::move(record));
}

void RecordKeeper::finish() noexcept {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void RecordKeeper::loop() {
  try {
    bool ending = false;
    while (!ending) {
      std::vector<ItemRecord> records;
      {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, interval_, [this] { return ending_; });
        ending = ending_;
        records.swap(pending_);
      }
      if (!records.empty()) keep(std::move(records));
    }
  } catch (...) {
    on_error_(std::current_exception());
  }
}

void RecordKeeper::keep(std::vector<ItemRecord> records) {
  files_.sync();
  for (const ItemRecord& record : records) {
    WireWriter out;
    record.write(out);
    journal_.append(out.take());
  }
  journal_.sync();
  on_kept_(std::move(records));
}

}  // namespace halfquad
