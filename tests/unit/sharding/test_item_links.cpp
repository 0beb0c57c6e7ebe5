#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/job_tags.h"
#include "tests/support/expect_error.h"
#include "tests/support/fake_devices.h"
#include "tests/unit/sharding/transfer_fixture.h"

namespace halfquad {
namespace {

using test::entries;
using test::eventually;
using test::FakeDevices;
using test::FakeLinks;
using test::kNoLimit;
using test::kReceiver;
using test::LinkFaults;
using test::model;
using test::Receiver;
using test::record_of;
using test::write_entry;

/// The devices of one rank, which can be linked to other ranks', and what was warned of.
class RankDevices {
 public:
  explicit RankDevices(LinkFaults faults = {}, bool links = true, FakeLinks possible = FakeLinks::kYes)
      : module(1, {.links = faults}, possible), set(module, module.devices(), options(links)) {}
  RankDevices(FakeDevices& other, LinkFaults /*of other*/) : module(0), set(other, other.devices(), options(true)) {}

  [[nodiscard]] std::vector<std::string> warnings() {
    const std::lock_guard lock(mutex_);
    return warnings_;
  }

 private:
  DeviceSetOptions options(bool links) {
    return {.links = links, .make_host_solver = {}, .warn = [this](const std::string& text) {
              const std::lock_guard lock(mutex_);
              warnings_.push_back(text);
            }};
  }
  std::mutex mutex_;
  std::vector<std::string> warnings_;

 public:
  FakeDevices module;
  DeviceSet set;
};

/// One receiver and one sender for each of `devices`, null for a rank without; messages go to and fro in order.
class Ranks {
 public:
  Ranks(DeviceSet* receiver, const std::vector<DeviceSet*>& devices, std::uint64_t budget = kNoLimit)
      : receiver(budget, 2, nullptr, receiver), outboxes_(devices.size()) {
    for (std::size_t i = 0; i < devices.size(); ++i) {
      senders_.emplace_back(outboxes_[i], static_cast<int>(i) + 1, devices[i]);
    }
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        if (!turn()) std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    });
  }
  ~Ranks() {
    for (ItemSender& sender : senders_) sender.close();
    receiver.receiver.end();
  }

  [[nodiscard]] ItemSender& sender(int rank) { return senders_.at(static_cast<std::size_t>(rank - 1)); }

  /// Every entry, by four threads of every sender.
  void write_all() {
    std::vector<std::jthread> threads;
    const std::size_t count = 4 * senders_.size();
    for (std::size_t thread = 0; thread < count; ++thread) {
      threads.emplace_back([this, thread, count] {
        ItemSender& sender = senders_[thread % senders_.size()];
        for (std::size_t entry = thread; entry < entries(); entry += count) {
          write_entry(sender, entry);
          EXPECT_TRUE(receiver.holds(entry)) << entry;  // already
          sender.keep(kReceiver, record_of(entry));
        }
      });
    }
  }
  void expect_all_written() {
    for (ItemSender& sender : senders_) EXPECT_TRUE(sender.finish());
    for (std::size_t entry = 0; entry < entries(); ++entry) EXPECT_TRUE(receiver.holds(entry)) << entry;
    EXPECT_TRUE(eventually([this] { return receiver.kept == entries(); }));
    EXPECT_EQ(receiver.errors, 0);
    // Once each: the answers came when it had been counted.
    EXPECT_TRUE(eventually([this] { return receiver.receiver.bytes_received() >= model().layout().data_bytes(); }));
    EXPECT_EQ(receiver.receiver.bytes_received(), model().layout().data_bytes());
  }
  [[nodiscard]] std::uint64_t bytes_by_link() const { return receiver.receiver.bytes_by_link(); }

  Receiver receiver;
  std::atomic<int> items_by_mpi = 0;

 private:
  bool turn() {
    bool busy = false;
    for (std::size_t i = 0; i < outboxes_.size(); ++i) {
      for (Message& message : outboxes_[i].take()) {
        busy = true;
        message.rank = static_cast<int>(i) + 1;
        if (static_cast<Tag>(message.tag) == Tag::kItem) ++items_by_mpi;
        receiver.take(std::move(message));
      }
    }
    for (const Message& message : receiver.outbox.take()) {
      busy = true;
      to_sender(sender(message.rank), message);
    }
    return busy;
  }
  static void to_sender(ItemSender& sender, const Message& message) {
    const auto tag = static_cast<Tag>(message.tag);
    WireReader in(message.data);
    if (tag == Tag::kGrant) sender.granted(in.get<std::uint64_t>());
    if (tag == Tag::kStored) sender.stored(in.get<std::uint64_t>());
    if (tag == Tag::kAgain) sender.again(in.get<std::uint64_t>());
    if (tag == Tag::kKept) sender.kept();
    if (tag == Tag::kLinkAnswer) sender.link_answered(kReceiver, in);
    if (tag == Tag::kLinkLost) sender.link_lost(kReceiver, in);
  }

  std::deque<Outbox> outboxes_;
  std::deque<ItemSender> senders_;
  std::jthread thread_;
};

TEST(ItemLinks, EverythingTravelsOverLinksWhereBothSidesHaveDevices) {
  RankDevices receiver, first, second;
  {
    Ranks ranks(&receiver.set, {&first.set, &second.set, nullptr});
    ranks.write_all();
    ranks.expect_all_written();
    std::uint64_t without = 0;  // of the third rank
    for (std::size_t entry = 0; entry < entries(); ++entry) {
      if (entry % 12 % 3 == 2) without += model().layout().entries()[entry].bytes();
    }
    EXPECT_GT(without, 0U);
    EXPECT_EQ(ranks.bytes_by_link(), model().layout().data_bytes() - without);
  }
  for (RankDevices* rank : {&receiver, &first, &second}) EXPECT_TRUE(rank->warnings().empty());
  EXPECT_EQ(test::fake_links_alive(), 0);
}

TEST(ItemLinks, ResultsLargerThanTheReceiversBudgetPassToo) {
  RankDevices receiver, first, second;
  Ranks ranks(&receiver.set, {&first.set, &second.set}, 500);
  ranks.write_all();
  ranks.expect_all_written();
  EXPECT_EQ(ranks.bytes_by_link(), model().layout().data_bytes());
}

TEST(ItemLinks, WhereThereCanBeNoneAllGoesByMpiWithoutAWord) {
  struct Case {
    const char* what;
    std::function<void(RankDevices*& receiver, RankDevices*& sender)> change;
  };
  RankDevices plain, other, off({}, false), incapable({}, true, FakeLinks::kNo), shared(plain.module, {});
  for (const Case& each : std::vector<Case>{
           {"no devices on the receiver", [&](RankDevices*&receiver, RankDevices*&) { receiver = nullptr; }},
           {"none on the sender", [&](RankDevices*&, RankDevices*&sender) { sender = nullptr; }},
           {"turned off on the receiver", [&](RankDevices*&receiver, RankDevices*&) { receiver = &off; }},
           {"turned off on the sender", [&](RankDevices*&, RankDevices*&sender) { sender = &off; }},
           {"no library on the receiver", [&](RankDevices*&receiver, RankDevices*&) { receiver = &incapable; }},
           {"no library on the sender", [&](RankDevices*&, RankDevices*&sender) { sender = &incapable; }},
           {"the same device", [&](RankDevices*&, RankDevices*&sender) { sender = &shared; }},
       }) {
    SCOPED_TRACE(each.what);
    RankDevices *receiver = &plain, *sender = &other;
    each.change(receiver, sender);
    Ranks ranks(receiver == nullptr ? nullptr : &receiver->set, {sender == nullptr ? nullptr : &sender->set});
    ranks.write_all();
    ranks.expect_all_written();
    EXPECT_EQ(ranks.bytes_by_link(), 0U);
  }
  for (RankDevices* rank : {&plain, &other, &off, &incapable, &shared}) EXPECT_TRUE(rank->warnings().empty());
}

TEST(ItemLinks, AReceiverDeclinesMoreLinksThanItsDevicesShouldCarry) {
  RankDevices receiver;
  std::deque<RankDevices> many(ItemReceiver::kMostLinks + 2);
  std::vector<DeviceSet*> sets;
  for (RankDevices& rank : many) sets.push_back(&rank.set);
  Ranks ranks(&receiver.set, sets);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < sets.size(); ++i) {
      threads.emplace_back([&, i] { write_entry(ranks.sender(static_cast<int>(i) + 1), i % entries()); });
    }
  }
  EXPECT_EQ(ranks.items_by_mpi, 2);
  for (RankDevices& rank : many) EXPECT_TRUE(rank.warnings().empty());
}

/// Pieces of all entries, with a message's overhead each.
int pieces_of_all() {
  int pieces = 0;
  for (std::size_t entry = 0; entry < entries(); ++entry) {
    const std::uint64_t bytes = model().layout().entries()[entry].bytes() + (2 + 3 * 3) * sizeof(std::uint64_t);
    pieces += static_cast<int>((bytes + test::kFakePieceBytes - 1) / test::kFakePieceBytes);
  }
  return pieces;
}

/// Runs with these faults; returns whether a link failed, which is to be told by the sender alone, and once.
bool run_with(LinkFaults of_receiver, LinkFaults of_sender) {
  RankDevices receiver(of_receiver), sender(of_sender);
  {
    Ranks ranks(&receiver.set, {&sender.set});
    ranks.write_all();
    ranks.expect_all_written();
    EXPECT_EQ(sender.warnings().empty(), ranks.items_by_mpi == 0);
    EXPECT_EQ(sender.warnings().empty(), ranks.bytes_by_link() == model().layout().data_bytes());
  }
  EXPECT_EQ(test::fake_links_alive(), 0);
  EXPECT_TRUE(receiver.warnings().empty());
  EXPECT_LE(sender.warnings().size(), 1U);
  for (const std::string& warning : sender.warnings()) {
    EXPECT_NE(warning.find("rank 1"), std::string::npos) << warning;
    EXPECT_NE(warning.find("rank 0"), std::string::npos) << warning;
    EXPECT_NE(warning.find("injected fault"), std::string::npos) << warning;
  }
  return !sender.warnings().empty();
}

TEST(ItemLinks, EitherSideMayFailAtAnyPieceAndNothingIsLost) {
  const int pieces = pieces_of_all();
  ASSERT_GT(pieces, 30);
  EXPECT_FALSE(run_with({}, {}));
  for (int piece = 0; piece <= pieces; ++piece) {
    SCOPED_TRACE(piece);
    EXPECT_TRUE(run_with({.fails_at = piece}, {}));
    EXPECT_TRUE(run_with({}, {.fails_at = piece}));
    EXPECT_TRUE(run_with({.fails_at = piece}, {.fails_at = pieces - piece}));
  }
  EXPECT_FALSE(run_with({.fails_at = pieces + 1}, {.fails_at = pieces + 1}));
}

TEST(ItemLinks, ClosingLetsGoWhoWaitsForALink) {
  for (const bool receiver_hangs : {false, true}) {
    for (const int piece : {0, 1, 3}) {
      SCOPED_TRACE(piece);
      const auto start = std::chrono::steady_clock::now();
      const LinkFaults hangs{.hangs_at = piece};
      RankDevices receiver(receiver_hangs ? hangs : LinkFaults{}), sender(receiver_hangs ? LinkFaults{} : hangs);
      std::optional<Error> error;
      {
        Ranks ranks(&receiver.set, {&sender.set});
        std::jthread writing([&] {
          try {
            write_entry(ranks.sender(1), 15);
          } catch (const Error& thrown) {
            error = thrown;
          }
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        ranks.sender(1).close();
        writing.join();
      }
      ASSERT_TRUE(error);
      EXPECT_EQ(error->code(), ErrorCode::kInterrupted);
      EXPECT_TRUE(sender.warnings().empty());
      EXPECT_EQ(test::fake_links_alive(), 0);
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    }
  }
}

TEST(ItemLinks, WhoWaitsForAnAnswerThatNeverComesIsLetGo) {
  RankDevices devices;
  Outbox outbox;
  ItemSender sender(outbox, 1, &devices.set);
  std::jthread later([&] {
    EXPECT_TRUE(eventually([&] { return !outbox.take().empty(); }));
    sender.close();
  });
  test::expect_error(ErrorCode::kInterrupted, {"interrupted"}, [&] { write_entry(sender, 0); });
  test::expect_error(ErrorCode::kInterrupted, {"interrupted"}, [&] { write_entry(sender, 1); });
  Outbox nobody;
  ItemSender closed(nobody, 1, &devices.set);
  closed.close();
  test::expect_error(ErrorCode::kInterrupted, {"interrupted"}, [&] { write_entry(closed, 0); });
}

}  // namespace
}  // namespace halfquad
