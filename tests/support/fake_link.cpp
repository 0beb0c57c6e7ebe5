#include "tests/support/fake_link.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "runtime/check.h"

namespace halfquad::test {
namespace {

constexpr std::size_t kMostUnderWay = 2;
constexpr std::chrono::seconds kPatience{20};

struct Pipe {
  std::mutex mutex;
  std::condition_variable changed;
  std::array<bool, 2> open{};
  std::deque<std::vector<std::byte>> pieces;
};

std::atomic<int> alive = 0;

class FakeLink final : public DeviceLink {
 public:
  FakeLink(std::shared_ptr<Pipe> pipe, std::size_t end, LinkFaults faults)
      : pipe_(std::move(pipe)), end_(end), faults_(faults) {
    ++alive;
  }
  ~FakeLink() override { --alive; }
  FakeLink(const FakeLink&) = delete;
  FakeLink& operator=(const FakeLink&) = delete;

  void open() override {
    misbehave();
    std::unique_lock lock(pipe_->mutex);
    pipe_->open[end_] = true;
    pipe_->changed.notify_all();
    wait(lock, [this] { return pipe_->open[1 - end_]; });
  }

  void send(std::span<const std::byte> data) override {
    while (!data.empty()) {
      const auto part = data.first(std::min(kFakePieceBytes, data.size()));
      data = data.subspan(part.size());
      ++piece_;
      misbehave();
      std::unique_lock lock(pipe_->mutex);
      wait(lock, [this] { return pipe_->pieces.size() < kMostUnderWay; });
      pipe_->pieces.emplace_back(part.begin(), part.end());
      pipe_->changed.notify_all();
    }
  }

  void receive(std::span<std::byte> data) override {
    while (!data.empty()) {
      const auto part = data.first(std::min(kFakePieceBytes, data.size()));
      data = data.subspan(part.size());
      ++piece_;
      misbehave();
      std::unique_lock lock(pipe_->mutex);
      wait(lock, [this] { return !pipe_->pieces.empty(); });
      HALFQUAD_REQUIRE(pipe_->pieces.front().size() == part.size(), kInternal, "another length was sent");
      std::memcpy(part.data(), pipe_->pieces.front().data(), part.size());
      pipe_->pieces.pop_front();
      pipe_->changed.notify_all();
    }
  }

  void abort() noexcept override {
    const std::lock_guard lock(pipe_->mutex);
    aborted_ = true;
    pipe_->changed.notify_all();
  }

 private:
  void misbehave() {
    HALFQUAD_REQUIRE(faults_.fails_at < 0 || piece_ < faults_.fails_at, kDevice, "fake link: injected fault");
    if (faults_.hangs_at < 0 || piece_ < faults_.hangs_at) return;
    std::unique_lock lock(pipe_->mutex);
    wait(lock, [] { return false; });
  }

  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, Done done) {
    const bool ended = pipe_->changed.wait_for(lock, kPatience, [&] { return aborted_ || done(); });
    HALFQUAD_REQUIRE(!aborted_, kDevice, "fake link: aborted");
    HALFQUAD_REQUIRE(ended, kDevice, "fake link: nobody aborted this end");
  }

  const std::shared_ptr<Pipe> pipe_;
  const std::size_t end_;
  const LinkFaults faults_;
  int piece_ = 0;
  bool aborted_ = false;  // guarded by the pipe's mutex
};

std::mutex invitations_mutex;
std::map<std::uint64_t, std::shared_ptr<Pipe>> invitations;
std::uint64_t next_invitation = 1;

}  // namespace

AcceptedLink accept_fake_link(LinkFaults faults) {
  auto pipe = std::make_shared<Pipe>();
  const std::lock_guard lock(invitations_mutex);
  const std::uint64_t number = next_invitation++;
  invitations[number] = pipe;
  std::vector<std::byte> invitation(sizeof number);
  std::memcpy(invitation.data(), &number, sizeof number);
  return {std::make_unique<FakeLink>(std::move(pipe), 0, faults), std::move(invitation)};
}

std::unique_ptr<DeviceLink> join_fake_link(std::span<const std::byte> invitation, LinkFaults faults) {
  std::uint64_t number = 0;
  HALFQUAD_REQUIRE(invitation.size() == sizeof number, kInternal, "this is no invitation");
  std::memcpy(&number, invitation.data(), sizeof number);
  const std::lock_guard lock(invitations_mutex);
  auto pipe = std::move(invitations.at(number));
  invitations.erase(number);
  return std::make_unique<FakeLink>(std::move(pipe), 1, faults);
}

int fake_links_alive() noexcept { return alive; }

}  // namespace halfquad::test
