#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "io/journal.h"
#include "sharding/item_record.h"
#include "sharding/weight_files.h"

namespace halfquad {

/// Makes finished items durable from a thread of its own: every `interval` the output files are synced, then the
/// records of what was written before that are appended to the journal, which is synced too. What a dead process loses
/// is what came after the last time.
class RecordKeeper {
 public:
  /// Told in the order they were added, once they are durable. Called from the keeper's thread.
  using OnKept = std::function<void(std::vector<ItemRecord> records)>;
  /// Called once, from the keeper's thread, when syncing or journaling failed; nothing more is kept then.
  using OnError = std::function<void(std::exception_ptr)>;

  RecordKeeper(WeightFiles& files, JournalWriter& journal, std::chrono::milliseconds interval, OnKept on_kept,
               OnError on_error);
  ~RecordKeeper();
  RecordKeeper(const RecordKeeper&) = delete;
  RecordKeeper& operator=(const RecordKeeper&) = delete;

  /// Never blocks for long. The bytes of the item must have been written.
  void add(ItemRecord record);
  /// Keeps all that was added and ends the thread. Errors go to on_error.
  void finish() noexcept;

 private:
  void loop();
  void keep(std::vector<ItemRecord> records);

  WeightFiles& files_;
  JournalWriter& journal_;
  const std::chrono::milliseconds interval_;
  OnKept on_kept_;
  OnError on_error_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<ItemRecord> pending_;
  bool ending_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace halfquad
