#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/trace.h"
#include "sharding/in_link.h"
#include "sharding/outbox.h"
#include "sharding/record_keeper.h"
#include "sharding/weight_files.h"

namespace halfquad {

/// Writes what other ranks' ItemSenders send, with threads of its own. It grants offers in the order they came, as long
/// as what was granted and is not yet written fits its budget; a single result is always granted.
class ItemReceiver {
 public:
  struct Options {
    std::uint64_t budget_bytes = 0;
    int threads = 1;
    DeviceSet* devices = nullptr;  ///< Those that other ranks' may be linked to.
    Trace* trace = nullptr;
  };
  /// Called once, from a thread of this object, when writing failed; nothing more is granted then.
  using OnError = std::function<void(std::exception_ptr)>;

  ItemReceiver(WeightFiles& files, RecordKeeper& keeper, Outbox& outbox, const Options& options, OnError on_error);
  ~ItemReceiver() { end(); }
  ItemReceiver(const ItemReceiver&) = delete;
  ItemReceiver& operator=(const ItemReceiver&) = delete;

  // Messages of ItemSender; called by the thread with the communicator. They never block for long.
  void offered(int rank, WireReader in);
  void arrived(Message message);
  void keep(int rank, WireReader in);
  void link_asked(int rank, WireReader in);
  void announced(int rank, WireReader in);
  void link_ended(int rank);

  /// Ends the threads; what was not written yet is dropped.
  void end() noexcept;
  [[nodiscard]] std::uint64_t bytes_received() const;
  [[nodiscard]] std::uint64_t bytes_by_link() const;  ///< Of these, over links between devices.

  /// More links are declined: each takes memory of a device.
  static constexpr std::size_t kMostLinks = 16;

 private:
  struct Offer {
    int rank = 0;
    std::uint64_t ticket = 0;
    std::uint64_t bytes = 0;
  };
  struct Item {
    Message message;
    bool by_link = false;
  };
  void grant_locked();
  void push(Item item);
  void loop(int thread);
  std::uint64_t write(const Message& message);

  WeightFiles& files_;
  RecordKeeper& keeper_;
  Outbox& outbox_;
  const Options options_;
  const OnError on_error_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Offer> offers_;
  std::deque<Item> items_;
  std::uint64_t granted_bytes_ = 0, received_bytes_ = 0, link_bytes_ = 0;
  bool ending_ = false;
  std::map<int, std::unique_ptr<InLink>> links_;  // by rank
  std::vector<std::thread> threads_;              // last: they use all of the above
};

}  // namespace halfquad
