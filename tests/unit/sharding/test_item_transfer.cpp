#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/journal.h"
#include "sharding/item_receiver.h"
#include "sharding/item_sender.h"
#include "sharding/job_tags.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/unit/sharding/transfer_fixture.h"

namespace halfquad {
namespace {

using test::bytes_of_entry;
using test::entries;
using test::eventually;
using test::FaultPlan;
using test::FaultyFileSystem;
using test::kNoLimit;
using test::kReceiver;
using test::model;
using test::Receiver;
using test::record_of;
using test::write_entry;

/// Carries messages between one receiver and some senders, as the threads with the communicators do, and counts.
class Pump {
 public:
  Pump(Receiver& receiver, int senders) : receiver_(receiver), outboxes_(static_cast<std::size_t>(senders)) {
    for (Outbox& outbox : outboxes_) senders_.emplace_back(outbox);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        if (!turn()) std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
  }

  /// Of rank `rank`, from 1.
  [[nodiscard]] ItemSender& sender(int rank) { return senders_.at(static_cast<std::size_t>(rank - 1)); }
  /// Everything moves on only once this many offers lie with the receiver.
  void hold_items_until(std::size_t offers) { offers_first_ = offers; }
  void finish() {
    thread_.request_stop();
    thread_.join();
  }

  // After finish().
  std::uint64_t most_granted = 0, most_at_once = 0;
  std::size_t granted = 0;

 private:
  bool turn() {
    bool busy = false;
    for (std::size_t i = 0; i < outboxes_.size(); ++i) {
      for (Message& message : outboxes_[i].take()) {
        busy = true;
        message.rank = static_cast<int>(i) + 1;
        if (static_cast<Tag>(message.tag) == Tag::kOffer) note_offer(message);
        held_.push_back(std::move(message));
      }
    }
    for (Message& message : receiver_.outbox.take()) {
      busy = true;
      to_sender(message);
    }
    std::deque<Message> held = std::exchange(held_, {});
    for (Message& message : held) {
      if (static_cast<Tag>(message.tag) == Tag::kItem && offers_seen_ < offers_first_) {
        held_.push_back(std::move(message));
      } else {
        receiver_.take(std::move(message));
      }
    }
    return busy;
  }
  void note_offer(const Message& message) {
    WireReader in(message.data);
    const auto ticket = in.get<std::uint64_t>();
    sizes_[{message.rank, ticket}] = in.get<std::uint64_t>();
    ++offers_seen_;
  }
  void to_sender(const Message& message) {
    ItemSender& sender = this->sender(message.rank);
    const auto tag = static_cast<Tag>(message.tag);
    if (tag == Tag::kKept) return sender.kept();
    const auto ticket = WireReader(message.data).get<std::uint64_t>();
    const std::uint64_t bytes = sizes_.at({message.rank, ticket});
    if (tag == Tag::kStored) {
      granted_bytes_ -= bytes;
      --at_once_;
      return sender.stored(ticket);
    }
    granted_bytes_ += bytes;
    ++at_once_;
    ++granted;
    most_granted = std::max(most_granted, granted_bytes_);
    most_at_once = std::max(most_at_once, at_once_);
    sender.granted(ticket);
  }

  Receiver& receiver_;
  std::deque<Outbox> outboxes_;
  std::deque<ItemSender> senders_;
  std::deque<Message> held_;
  std::map<std::pair<int, std::uint64_t>, std::uint64_t> sizes_;
  std::atomic<std::size_t> offers_first_ = 0;
  std::size_t offers_seen_ = 0;
  std::uint64_t granted_bytes_ = 0, at_once_ = 0;
  std::jthread thread_;
};

/// Every entry, over two ranks of four threads each.
void write_all(Pump& pump) {
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < 8; ++thread) {
    threads.emplace_back([&pump, thread] {
      ItemSender& sender = pump.sender(1 + thread % 2);
      for (std::size_t entry = static_cast<std::size_t>(thread); entry < entries(); entry += 8) {
        write_entry(sender, entry);
        sender.keep(kReceiver, record_of(entry));
      }
    });
  }
}

TEST(ItemTransfer, BringsEveryByteToItsPlaceInAnyFile) {
  ASSERT_EQ(model().layout().files().size(), 2U);
  Receiver receiver(kNoLimit);
  Pump pump(receiver, 2);

  write_all(pump);
  EXPECT_TRUE(pump.sender(1).finish());
  EXPECT_TRUE(pump.sender(2).finish());
  pump.finish();

  for (std::size_t entry = 0; entry < entries(); ++entry) EXPECT_TRUE(receiver.holds(entry)) << entry;
  EXPECT_EQ(receiver.receiver.bytes_received(), model().layout().data_bytes());
  EXPECT_TRUE(eventually([&] { return receiver.kept == entries(); }));
  EXPECT_EQ(receiver.errors, 0);
}

TEST(ItemTransfer, StaysWithinTheBudgetHoweverManyOffer) {
  // 16'000 bytes are the largest result.
  for (const std::uint64_t budget : {16'000U, 20'000U, 40'000U}) {
    SCOPED_TRACE(budget);
    Receiver receiver(budget, 3);
    Pump pump(receiver, 2);
    pump.hold_items_until(8);  // of all threads

    write_all(pump);
    pump.finish();

    EXPECT_EQ(pump.granted, entries());
    EXPECT_LE(pump.most_granted, budget);
    EXPECT_GT(pump.most_granted, budget / 2);
    EXPECT_GT(pump.most_at_once, 1U);
    for (std::size_t entry = 0; entry < entries(); ++entry) EXPECT_TRUE(receiver.holds(entry)) << entry;
  }
}

TEST(ItemTransfer, PassesResultsLargerThanTheBudgetOneByOne) {
  Receiver receiver(500);
  Pump pump(receiver, 2);
  pump.hold_items_until(8);

  write_all(pump);
  pump.finish();

  EXPECT_EQ(pump.granted, entries());
  EXPECT_EQ(pump.most_at_once, 1U);
  for (std::size_t entry = 0; entry < entries(); ++entry) EXPECT_TRUE(receiver.holds(entry)) << entry;
}

using Grants = std::vector<std::pair<int, std::uint64_t>>;

TEST(ItemReceiver, GrantsInTheOrderOfTheOffers) {
  const std::size_t first = 0, second = 1;
  ASSERT_EQ(bytes_of_entry(first).size(), 1'000U);
  ASSERT_EQ(bytes_of_entry(second).size(), 2'000U);
  Receiver receiver(3'000);
  receiver.offer(1, 70, 1'000);
  receiver.offer(2, 5, 2'000);
  receiver.offer(1, 71, 2'500);
  receiver.offer(3, 0, 10);  // would fit, but is not its turn
  receiver.offer(2, 6, 400);
  EXPECT_EQ(receiver.grants(), (Grants{{1, 70}, {2, 5}}));

  receiver.send(1, 70, first);
  ASSERT_TRUE(eventually([&] { return receiver.receiver.bytes_received() == 1'000; }));
  EXPECT_EQ(receiver.grants(), Grants{});

  receiver.send(2, 5, second);
  ASSERT_TRUE(eventually([&] { return receiver.receiver.bytes_received() == 3'000; }));
  EXPECT_EQ(receiver.grants(), (Grants{{1, 71}, {3, 0}, {2, 6}}));
}

TEST(ItemReceiver, AFailingFileIsToldOnceAndNothingMoreIsGranted) {
  const auto count = std::make_shared<FaultPlan>();
  FaultyFileSystem counting(model().files(), count);
  { const Receiver whole(kNoLimit, 1, &counting); }
  const std::vector<std::string> calls = count->log();
  const auto created = static_cast<std::uint64_t>(
      std::count_if(calls.begin(), calls.end(), [](const std::string& call) { return !call.starts_with("close"); }));
  // Everything from the first write on.
  const auto plan = std::make_shared<FaultPlan>(created + 1, test::After::kDead);
  FaultyFileSystem faulty(model().files(), plan);
  Receiver receiver(kNoLimit, 4, &faulty);
  for (std::uint64_t ticket = 0; ticket < 4; ++ticket) receiver.offer(1, ticket, 15'000);
  EXPECT_EQ(receiver.grants().size(), 4U);

  // So many pieces, all empty, that other threads have an item before the first one fails.
  constexpr std::size_t kPieces = 300'000;
  std::vector<Message> items;
  for (std::uint64_t ticket = 0; ticket < 4; ++ticket) {
    WireWriter out;
    out.put(ticket);
    out.put(static_cast<std::uint64_t>(kPieces));
    const std::vector<std::byte> pieces(3 * sizeof(std::uint64_t) * kPieces);
    std::vector<std::byte> message = out.take();
    message.insert(message.end(), pieces.begin(), pieces.end());
    items.push_back({1, static_cast<int>(Tag::kItem), std::move(message)});
  }
  for (Message& item : items) receiver.receiver.arrived(std::move(item));

  ASSERT_TRUE(eventually([&] { return receiver.errors > 0; }));
  receiver.offer(2, 9, 10);
  receiver.receiver.end();
  receiver.offer(2, 10, 10);
  EXPECT_EQ(receiver.errors, 1);
  EXPECT_TRUE(plan->failed_call().starts_with("write ")) << plan->failed_call();
  test::expect_error(ErrorCode::kIo, {"injected fault", ".safetensors"},
                     [&] { std::rethrow_exception(receiver.first_error); });
  EXPECT_EQ(receiver.grants(), Grants{});
}

TEST(ItemReceiver, AMessageThatIsCutIsAnErrorToo) {
  Receiver receiver(10'000);
  WireWriter out;
  out.put(std::uint64_t{0});
  out.put(std::uint64_t{1'000'000'000});  // pieces

  receiver.receiver.arrived(message_to(1, Tag::kItem, out));

  ASSERT_TRUE(eventually([&] { return receiver.errors > 0; }));
  receiver.receiver.end();
  test::expect_error(ErrorCode::kBadInput, {"cut off"}, [&] { std::rethrow_exception(receiver.first_error); });
}

/// One write() on a thread of its own, without anybody who answers.
class Waiting {
 public:
  Waiting() : thread_([this] { call(); }) {}
  [[nodiscard]] Message next() {
    std::vector<Message> messages;
    EXPECT_TRUE(eventually([&] {
      messages = outbox.take();
      return !messages.empty();
    }));
    EXPECT_EQ(messages.size(), 1U);
    return messages.empty() ? Message{} : std::move(messages[0]);
  }
  [[nodiscard]] std::optional<Error> join() {
    thread_.join();
    return error_;
  }

  Outbox outbox;
  ItemSender sender{outbox};

 private:
  void call() {
    try {
      write_entry(sender, 0);
    } catch (const Error& error) {
      error_ = error;
    }
  }
  std::optional<Error> error_;
  std::thread thread_;
};

TEST(ItemSender, SendsNoByteBeforeItIsGrantedAndReturnsOnceTheyAreStored) {
  Waiting waiting;
  const Message offer = waiting.next();
  EXPECT_EQ(offer.tag, static_cast<int>(Tag::kOffer));
  WireReader in(offer.data);
  const auto ticket = in.get<std::uint64_t>();
  EXPECT_EQ(in.get<std::uint64_t>(), 1'000U);
  waiting.sender.granted(ticket + 1);  // nobody's
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(waiting.outbox.take().empty());

  waiting.sender.granted(ticket);
  const Message item = waiting.next();
  EXPECT_EQ(item.tag, static_cast<int>(Tag::kItem));
  EXPECT_GE(item.data.size(), 1'000U);
  waiting.sender.stored(ticket);

  EXPECT_FALSE(waiting.join());
}

TEST(ItemSender, CloseLetsGoWhoWaitsForAGrantOrForTheEnd) {
  for (const bool granted : {false, true}) {
    Waiting waiting;
    const Message offer = waiting.next();
    if (granted) {
      waiting.sender.granted(WireReader(offer.data).get<std::uint64_t>());
      static_cast<void>(waiting.next());
    }

    waiting.sender.close();

    const std::optional<Error> error = waiting.join();
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::kInterrupted);
    test::expect_error(ErrorCode::kInterrupted, {"interrupted"}, [&] { write_entry(waiting.sender, 1); });
    waiting.sender.granted(0);  // late answers are no trouble
    waiting.sender.stored(0);
  }
}

TEST(ItemSender, FinishWaitsUntilEveryRecordHasArrived) {
  Outbox outbox;
  ItemSender sender(outbox);
  EXPECT_TRUE(sender.finish());
  sender.keep(3, record_of(1));
  sender.keep(3, record_of(2));
  std::atomic<bool> finished = false;
  std::jthread waiting([&] {
    EXPECT_TRUE(sender.finish());
    finished = true;
  });
  sender.kept();
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(finished);

  sender.kept();

  EXPECT_TRUE(eventually([&] { return finished.load(); }));
  const std::vector<Message> messages = outbox.take();
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0].rank, 3);
  WireReader in(messages[1].data);
  EXPECT_EQ(ItemRecord::read(in).item, 2U);
}

TEST(ItemSender, FinishSaysNoAfterClose) {
  Outbox outbox;
  ItemSender sender(outbox);
  sender.keep(3, record_of(1));
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    sender.close();
  });

  EXPECT_FALSE(sender.finish());
}

}  // namespace
}  // namespace halfquad
