#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "io/journal.h"
#include "sharding/item_receiver.h"
#include "sharding/item_sender.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad::test {

inline constexpr std::uint64_t kNoLimit = 1 << 30;
inline constexpr int kReceiver = 0;  ///< Its rank.

/// Whether it holds within 20 s.
[[nodiscard]] bool eventually(const std::function<bool()>& condition);

/// Sixteen tensors to copy, of 1'000 to 16'000 bytes, in two files.
[[nodiscard]] const RunnerModel& model();
[[nodiscard]] std::size_t entries();
[[nodiscard]] std::string bytes_of_entry(std::size_t entry);

/// Writes entry `entry` in pieces, the last part first.
void write_entry(ItemSender& sender, std::size_t entry);
[[nodiscard]] ItemRecord record_of(std::size_t entry);

/// A rank that receives into files of its own.
class Receiver {
 public:
  explicit Receiver(std::uint64_t budget_bytes, int threads = 2, FileSystem* fs = nullptr,
                    DeviceSet* devices = nullptr);

  void take(Message message);
  void offer(int rank, std::uint64_t ticket, std::uint64_t bytes);
  /// All of an entry, as a sender's message.
  void send(int rank, std::uint64_t ticket, std::size_t entry);
  /// Tickets granted since the last call, with their ranks, in order.
  [[nodiscard]] std::vector<std::pair<int, std::uint64_t>> grants();
  [[nodiscard]] bool holds(std::size_t entry) const;

 private:
  TempDir temp_;
  FileSystem& fs_;
  WeightFiles files_;
  JournalWriter journal_;
  RecordKeeper keeper_;

 public:
  Outbox outbox;
  std::atomic<std::size_t> kept = 0;
  std::atomic<int> errors = 0;
  std::exception_ptr first_error;
  ItemReceiver receiver;
};

}  // namespace halfquad::test
