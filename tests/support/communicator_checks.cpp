#include "tests/support/communicator_checks.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/check.h"

namespace halfquad::test {

/// A rank that has ended a check, or is already in the next one, may send while others are still in this one: the words
/// of the meeting between two checks are taken out, and early messages are put back.
class MeetingRanks {
 public:
  static constexpr int kDoneTag = 1000001;
  static constexpr int kGoTag = 1000002;

  explicit MeetingRanks(Communicator& ranks) : ranks_(ranks) {}

  [[nodiscard]] Communicator& operator*() const { return ranks_; }
  [[nodiscard]] int rank() const { return ranks_.rank(); }
  [[nodiscard]] int size() const { return ranks_.size(); }
  [[nodiscard]] std::size_t unsent() const { return ranks_.unsent(); }
  void send(Message message) { ranks_.send(std::move(message)); }

  [[nodiscard]] std::optional<Message> receive() {
    if (!early_.empty()) {
      Message message = std::move(early_.front());
      early_.pop_front();
      return message;
    }
    return receive_new();
  }

  /// One step towards all ranks being here; true when they are.
  bool step_to_meeting() {
    if (auto message = receive_new()) early_.push_back(std::move(*message));
    if (rank() != 0) return std::exchange(go_, false);
    if (done_ < size() - 1) return false;
    done_ = 0;
    for (int i = 1; i < size(); ++i) send({.rank = i, .tag = kGoTag, .data = {}});
    return true;
  }
  [[nodiscard]] bool has_early() const { return !early_.empty(); }

 private:
  std::optional<Message> receive_new() {
    auto message = ranks_.receive();
    if (message && message->tag == kDoneTag) {
      ++done_;
      message.reset();
    } else if (message && message->tag == kGoTag) {
      go_ = true;
      message.reset();
    }
    return message;
  }

  Communicator& ranks_;
  std::deque<Message> early_;
  int done_ = 0;
  bool go_ = false;
};

namespace {

using Clock = std::chrono::steady_clock;
using Sizes = CommunicatorCheckSizes;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void require(bool holds, const MeetingRanks& ranks, const std::string& what) {
  HALFQUAD_REQUIRE(holds, kInternal, "rank " + std::to_string(ranks.rank()) + ": " + what);
}

std::size_t index(int value) { return static_cast<std::size_t>(value); }

Message wait(MeetingRanks& ranks, const Sizes& sizes) {
  const auto start = Clock::now();
  while (true) {
    if (auto message = ranks.receive()) return std::move(*message);
    require(seconds_since(start) < sizes.patience_s, ranks, "no message came");
    std::this_thread::yield();
  }
}

/// No rank goes on before all are here.
void meet(MeetingRanks& ranks, const Sizes& sizes) {
  require(!ranks.has_early(), ranks, "a message too many");
  if (ranks.rank() != 0) ranks.send({.rank = 0, .tag = MeetingRanks::kDoneTag, .data = {}});
  const auto start = Clock::now();
  while (!ranks.step_to_meeting()) {
    require(seconds_since(start) < sizes.patience_s, ranks, "other ranks do not end this check");
    std::this_thread::yield();
  }
  require(ranks.rank() != 0 || !ranks.has_early(), ranks, "a message too many");
}

std::uint64_t next_word(std::uint64_t word) { return word * 6364136223846793005ULL + 1442695040888963407ULL; }

/// Bytes that only this sender, receiver and tag have.
std::uint64_t seed_of(int from, int to, int tag) {
  return next_word((static_cast<std::uint64_t>(from) << 40U) ^ (static_cast<std::uint64_t>(to) << 20U) ^
                   static_cast<std::uint64_t>(tag));
}

Message make_message(const MeetingRanks& ranks, int to, int tag, std::size_t bytes) {
  Message message{.rank = to, .tag = tag, .data = std::vector<std::byte>(bytes)};
  std::uint64_t word = seed_of(ranks.rank(), to, tag);
  for (std::size_t at = 0; at < bytes; at += sizeof(word), word = next_word(word)) {
    std::memcpy(message.data.data() + at, &word, std::min(sizeof(word), bytes - at));
  }
  return message;
}

void expect_message(const MeetingRanks& ranks, const Message& message, int tag, std::size_t bytes) {
  const std::string what = "message " + std::to_string(tag) + " from rank " + std::to_string(message.rank);
  require(message.tag == tag, ranks, what + " expected, tag " + std::to_string(message.tag) + " came");
  require(message.data.size() == bytes, ranks,
          what + " has " + std::to_string(message.data.size()) + " bytes instead of " + std::to_string(bytes));
  std::uint64_t word = seed_of(message.rank, ranks.rank(), tag);
  for (std::size_t at = 0; at < bytes; at += sizeof(word), word = next_word(word)) {
    const bool equal = std::memcmp(message.data.data() + at, &word, std::min(sizeof(word), bytes - at)) == 0;
    require(equal, ranks, what + " differs at byte " + std::to_string(at));
  }
}

void knows_its_place(MeetingRanks& meeting, const Sizes& /*sizes*/) {
  const Communicator& ranks = *meeting;
  require(ranks.rank() >= 0 && ranks.rank() < ranks.size(), meeting, "rank out of range");
  require(ranks.local_size() >= 1 && ranks.local_size() <= ranks.size(), meeting, "local size out of range");
  require(ranks.local_rank() >= 0 && ranks.local_rank() < ranks.local_size(), meeting, "local rank out of range");
  require(!ranks.name().empty() && ranks.name().find_first_of("\t\n") == std::string::npos, meeting, "no name");
}

/// Around the lengths where an implementation may change its way: empty, one packet, eager and rendezvous, parts.
std::size_t mixed_size(int number) {
  constexpr std::array<std::size_t, 14> kSizes = {0,    1,    15,   3983, 3984,  3985,   4000,
                                                  4001, 4096, 8191, 8192, 65537, 300000, 17};
  return kSizes[index(number * 5) % kSizes.size()];
}

void keeps_the_order_of_every_pair(MeetingRanks& ranks, const Sizes& sizes) {
  constexpr int kMessages = 140;
  for (int number = 0; number < kMessages; ++number) {
    for (int to = 0; to < ranks.size(); ++to) ranks.send(make_message(ranks, to, number, mixed_size(number + to)));
  }
  std::vector<int> next(index(ranks.size()));
  for (int i = 0; i < kMessages * ranks.size(); ++i) {
    const Message message = wait(ranks, sizes);
    const int number = next.at(index(message.rank))++;
    expect_message(ranks, message, number, mixed_size(number + ranks.rank()));
  }
}

void answers_many_senders(MeetingRanks& ranks, const Sizes& sizes) {
  constexpr int kQuestions = 1000;
  if (ranks.rank() == 0) {
    std::vector<int> next(index(ranks.size()));
    for (int i = 0; i < kQuestions * (ranks.size() - 1); ++i) {
      Message question = wait(ranks, sizes);
      const int number = next.at(index(question.rank))++;
      expect_message(ranks, question, number, 24);
      ranks.send(make_message(ranks, question.rank, number, 40));
    }
  } else {
    for (int number = 0; number < kQuestions; ++number) {
      ranks.send(make_message(ranks, 0, number, 24));
      expect_message(ranks, wait(ranks, sizes), number, 40);
    }
  }
}

void carries_a_long_message_between_short_ones(MeetingRanks& ranks, const Sizes& sizes) {
  const int last = ranks.size() - 1;
  if (ranks.rank() == 0) {
    ranks.send(make_message(ranks, last, 1, 3));
    ranks.send(make_message(ranks, last, 2, sizes.long_bytes));
    ranks.send(make_message(ranks, last, 3, 100000));
    ranks.send(make_message(ranks, last, 4, 0));
  }
  if (ranks.rank() == last) {
    expect_message(ranks, wait(ranks, sizes), 1, 3);
    expect_message(ranks, wait(ranks, sizes), 2, sizes.long_bytes);
    expect_message(ranks, wait(ranks, sizes), 3, 100000);
    expect_message(ranks, wait(ranks, sizes), 4, 0);
  }
}

void puts_long_messages_of_many_senders_together(MeetingRanks& ranks, const Sizes& sizes) {
  const std::size_t bytes = std::min(sizes.long_bytes, std::size_t{1500001});
  for (int to = 0; to < ranks.size(); ++to) {
    for (int number = 0; number < 3; ++number) ranks.send(make_message(ranks, to, number, bytes + index(number)));
  }
  std::vector<int> next(index(ranks.size()));
  for (int i = 0; i < 3 * ranks.size(); ++i) {
    const Message message = wait(ranks, sizes);
    const int number = next.at(index(message.rank))++;
    expect_message(ranks, message, number, bytes + index(number));
  }
}

void empties_what_is_unsent(MeetingRanks& ranks, const Sizes& sizes) {
  constexpr int kMessages = 20;
  const int to = (ranks.rank() + 1) % ranks.size();
  const std::size_t before = ranks.unsent();
  for (int number = 0; number < kMessages; ++number) ranks.send(make_message(ranks, to, number, 256 << 10));
  require(ranks.unsent() <= before + kMessages, ranks, "more is unsent than was sent");
  int received = 0;
  const auto start = Clock::now();
  while (ranks.unsent() > 0 || received < kMessages) {
    if (const auto message = ranks.receive()) expect_message(ranks, *message, received++, 256 << 10);
    require(seconds_since(start) < sizes.patience_s, ranks, std::to_string(ranks.unsent()) + " messages stay unsent");
  }
}

/// A sender that computes for a second in the middle of a long message must not hold up a receiver that has other work.
void never_blocks_in_receive(MeetingRanks& ranks, const Sizes& sizes) {
  const int last = ranks.size() - 1;
  const std::size_t bytes = std::min(sizes.long_bytes, std::size_t{64} << 20);
  if (ranks.rank() == last && last > 0) {
    ranks.send(make_message(ranks, 0, 5, bytes));
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  if (ranks.rank() == 0 && last > 0) {
    double longest_s = 0;
    std::optional<Message> message;
    const auto start = Clock::now();
    while (!message) {
      const auto call = Clock::now();
      message = ranks.receive();
      longest_s = std::max(longest_s, seconds_since(call));
      require(seconds_since(start) < sizes.patience_s, ranks, "no message came");
      std::this_thread::yield();
    }
    expect_message(ranks, *message, 5, bytes);
    require(longest_s < 0.6, ranks, "receive() took " + std::to_string(longest_s) + " s");
  }
}

void refuses_ranks_that_are_not(MeetingRanks& ranks, const Sizes& /*sizes*/) {
  for (const int nobody : {-1, ranks.size()}) {
    bool refused = false;
    try {
      ranks.send({.rank = nobody, .tag = 0, .data = {}});
    } catch (const Error& error) {
      refused = std::string(error.what()).find(std::to_string(nobody)) != std::string::npos;
    }
    require(refused, ranks, "a message for rank " + std::to_string(nobody) + " was taken");
  }
}

constexpr std::array kChecks = {
    CommunicatorCheck{"KnowsItsPlace", knows_its_place},
    CommunicatorCheck{"KeepsTheOrderOfEveryPair", keeps_the_order_of_every_pair},
    CommunicatorCheck{"AnswersManySenders", answers_many_senders},
    CommunicatorCheck{"CarriesALongMessageBetweenShortOnes", carries_a_long_message_between_short_ones},
    CommunicatorCheck{"PutsLongMessagesOfManySendersTogether", puts_long_messages_of_many_senders_together},
    CommunicatorCheck{"EmptiesWhatIsUnsent", empties_what_is_unsent},
    CommunicatorCheck{"NeverBlocksInReceive", never_blocks_in_receive},
    CommunicatorCheck{"RefusesRanksThatAreNot", refuses_ranks_that_are_not},
};

}  // namespace

std::span<const CommunicatorCheck> communicator_checks() { return kChecks; }

void run_communicator_checks(Communicator& ranks, const CommunicatorCheckSizes& sizes,
                             std::span<const CommunicatorCheck> checks) {
  MeetingRanks meeting(ranks);
  for (const CommunicatorCheck& check : checks) {
    try {
      check.run(meeting, sizes);
      meet(meeting, sizes);
    } catch (const Error& error) {
      throw Error(ErrorCode::kInternal, std::string(check.name) + ": " + error.what());
    }
  }
}

}  // namespace halfquad::test
