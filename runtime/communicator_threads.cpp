#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/check.h"
#include "runtime/communicator.h"

namespace halfquad {
namespace {

struct Mailbox {
  std::mutex mutex;
  std::deque<Message> messages;
};

/// Every rank of one process; kept by all its communicators, so that a message to a rank that has gone is only unread.
using Mailboxes = std::vector<Mailbox>;

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Mailboxes> mailboxes, int rank, std::string name)
      : mailboxes_(std::move(mailboxes)), rank_(rank), name_(std::move(name)) {}

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return static_cast<int>(mailboxes_->size()); }
  [[nodiscard]] int local_size() const noexcept override { return size(); }
  [[nodiscard]] int local_rank() const noexcept override { return rank_; }
  [[nodiscard]] std::string name() const override { return name_; }

  void send(Message message) override {
    const int receiver = std::exchange(message.rank, rank_);
    HALFQUAD_REQUIRE(receiver >= 0 && receiver < size(), kInternal,
                     "a message for rank " + std::to_string(receiver) + " of " + std::to_string(size()));
    Mailbox& mailbox = mailbox_of(receiver);
    const std::scoped_lock lock(mailbox.mutex);
    mailbox.messages.push_back(std::move(message));
  }

  [[nodiscard]] std::optional<Message> receive() override {
    Mailbox& mailbox = mailbox_of(rank_);
    const std::scoped_lock lock(mailbox.mutex);
    if (mailbox.messages.empty()) return std::nullopt;
    Message message = std::move(mailbox.messages.front());
    mailbox.messages.pop_front();
    return message;
  }

  [[nodiscard]] std::size_t unsent() const noexcept override { return 0; }

  // The process is the job. No destructor may run: the other ranks are still at work with what it would destroy.
  [[noreturn]] void abort(int exit_code) noexcept override { std::_Exit(exit_code); }

 private:
  [[nodiscard]] Mailbox& mailbox_of(int rank) const { return (*mailboxes_)[static_cast<std::size_t>(rank)]; }

  std::shared_ptr<Mailboxes> mailboxes_;
  int rank_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<ThreadCommunicator>(std::make_shared<Mailboxes>(1), 0, "one process");
}

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size) {
  HALFQUAD_REQUIRE(size > 0, kInternal, "a job of " + std::to_string(size) + " ranks");
  const auto mailboxes = std::make_shared<Mailboxes>(static_cast<std::size_t>(size));
  std::vector<std::unique_ptr<Communicator>> ranks;
  ranks.reserve(mailboxes->size());
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<ThreadCommunicator>(mailboxes, rank, "threads"));
  }
  return ranks;
}

}  // namespace halfquad
