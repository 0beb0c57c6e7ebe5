#include "runtime/cuda/nccl_link.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <thread>

#include <cuda_runtime_api.h>

#include "runtime/check.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/device_guard.h"
#include "runtime/cuda/event.h"
#include "runtime/cuda/memory.h"
#include "runtime/cuda/nccl_library.h"
#include "runtime/cuda/stream.h"

namespace halfquad::cuda {
namespace {

/// What two ends have to know of each other before they can be connected.
struct Identity {
  cudaUUID_t device;
  int version;
};

template <class T>
std::vector<std::byte> bytes_of(const T& value) {
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <class T>
T value_of(std::span<const std::byte> bytes) {
  T value;
  HALFQUAD_REQUIRE(bytes.size() == sizeof value, kBadInput, "a message about a link is cut off");
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

Identity identity_of(int device) {
  HALFQUAD_REQUIRE(nccl_library().problem.empty(), kUsage, "NCCL cannot be used: " + nccl_library().problem);
  cudaDeviceProp properties{};
  HALFQUAD_CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
  return {properties.uuid, nccl_library().version};
}

/// A wait for another process never lasts longer than this without anything happening.
constexpr std::chrono::seconds kOpenPatience{30};  // processes find each other, and buffers are made
constexpr std::chrono::seconds kMovePatience{10};  // of one piece

enum class Rank : int { kSender, kReceiver };

class NcclLink final : public DeviceLink {
 public:
  NcclLink(int device, Rank rank, const ncclUniqueId& id) : device_(device), rank_(rank), id_(id) {}
  ~NcclLink() override;
  NcclLink(const NcclLink&) = delete;
  NcclLink& operator=(const NcclLink&) = delete;

  void open() override;
  void send(std::span<const std::byte> data) override;
  void receive(std::span<std::byte> data) override;
  void abort() noexcept override { aborted_.store(true, std::memory_order_relaxed); }

 private:
  static constexpr std::size_t kPieceBytes = 4 << 20;
  static constexpr std::size_t kSlots = 2;

  /// Room for one piece on the device. A stream that waits for the other process has nothing else to do, and a copy is
  /// never put behind such a wait: it could not be waited for with an end.
  struct Slot {
    DeviceBuffer memory{kPieceBytes};
    Event copied;  // to it from the host, or from it
    Event moved;   // to the other device, or from it
  };
  struct Lanes {
    Stream copies, moves;
    std::array<Slot, kSlots> slots;
  };

  [[nodiscard]] Slot& slot_of(std::size_t piece) { return lanes_->slots[piece % kSlots]; }
  void send_piece(std::size_t piece, std::span<const std::byte> data);
  void ask_for_piece(std::size_t piece, std::size_t bytes);
  void take_piece(std::size_t piece, std::span<std::byte> data);

  template <class Done>
  void wait_until(Done done, const char* call, std::chrono::seconds patience);
  void settle(ncclResult_t result, const char* call, std::chrono::seconds patience);
  [[nodiscard]] ncclResult_t state() const;
  void wait_for_move(const Slot& slot, const char* call);

  const int device_;
  const Rank rank_;
  const ncclUniqueId id_;
  std::atomic<bool> aborted_{false};
  std::optional<Lanes> lanes_;
  ncclComm_t communicator_ = nullptr;
};

// Aborting frees all that finalizing would, without a word from the other end. Nothing can get lost by it: the results
// that were sent are known to have arrived.
NcclLink::~NcclLink() {
  try {
    const DeviceGuard guard(device_);
    if (communicator_ != nullptr) (void)nccl_library().abort(communicator_);
    if (!lanes_) return;
    lanes_->moves.drain();
    lanes_->copies.drain();
  } catch (const Error&) {
    return;  // the device is lost, and all that was on it
  }
}

void NcclLink::open() {
  const DeviceGuard guard(device_);
  lanes_.emplace();
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  settle(nccl_library().init_rank(&communicator_, 2, id_, static_cast<int>(rank_), &config), "ncclCommInitRank",
         kOpenPatience);
}

void NcclLink::send(std::span<const std::byte> data) {
  const DeviceGuard guard(device_);
  try {
    for (std::size_t piece = 0; !data.empty(); ++piece) {
      const auto part = data.first(std::min(kPieceBytes, data.size()));
      send_piece(piece, part);
      data = data.subspan(part.size());
    }
    for (const Slot& slot : lanes_->slots) wait_for_move(slot, "ncclSend");
  } catch (...) {
    lanes_->copies.drain();  // nothing may read the caller's memory any more
    throw;
  }
}

void NcclLink::send_piece(std::size_t piece, std::span<const std::byte> data) {
  const Slot& slot = slot_of(piece);
  wait_for_move(slot, "ncclSend");  // of the piece before
  HALFQUAD_CHECK_CUDA(
      cudaMemcpyAsync(slot.memory.data(), data.data(), data.size(), cudaMemcpyHostToDevice, lanes_->copies.get()));
  slot.copied.record(lanes_->copies);
  slot.copied.hold_back(lanes_->moves);
  settle(nccl_library().send(slot.memory.data(), data.size(), ncclUint8, static_cast<int>(Rank::kReceiver),
                             communicator_, lanes_->moves.get()),
         "ncclSend", kMovePatience);
  slot.moved.record(lanes_->moves);
}

void NcclLink::receive(std::span<std::byte> data) {
  const DeviceGuard guard(device_);
  const std::size_t pieces = (data.size() + kPieceBytes - 1) / kPieceBytes;
  const auto part = [data](std::size_t piece) {
    const auto rest = data.subspan(piece * kPieceBytes);
    return rest.first(std::min(kPieceBytes, rest.size()));
  };
  try {
    std::size_t asked = 0;
    for (std::size_t piece = 0; piece < pieces; ++piece) {
      for (; asked < std::min(pieces, piece + kSlots); ++asked) ask_for_piece(asked, part(asked).size());
      take_piece(piece, part(piece));
    }
    lanes_->copies.synchronize();
  } catch (...) {
    lanes_->copies.drain();  // nothing may write the caller's memory any more
    throw;
  }
}

void NcclLink::ask_for_piece(std::size_t piece, std::size_t bytes) {
  const Slot& slot = slot_of(piece);
  slot.copied.hold_back(lanes_->moves);  // of the piece before
  settle(nccl_library().receive(slot.memory.data(), bytes, ncclUint8, static_cast<int>(Rank::kSender), communicator_,
                                lanes_->moves.get()),
         "ncclRecv", kMovePatience);
  slot.moved.record(lanes_->moves);
}

void NcclLink::take_piece(std::size_t piece, std::span<std::byte> data) {
  const Slot& slot = slot_of(piece);
  wait_for_move(slot, "ncclRecv");
  HALFQUAD_CHECK_CUDA(
      cudaMemcpyAsync(data.data(), slot.memory.data(), data.size(), cudaMemcpyDeviceToHost, lanes_->copies.get()));
  slot.copied.record(lanes_->copies);
}

void NcclLink::wait_for_move(const Slot& slot, const char* call) {
  wait_until([&slot] { return slot.moved.reached(); }, call, kMovePatience);
  check_nccl(state(), call);  // what failed ends, too
}

ncclResult_t NcclLink::state() const {
  ncclResult_t state = ncclSuccess;
  check_nccl(nccl_library().async_error(communicator_, &state), "ncclCommGetAsyncError");
  return state;
}

// A call that does not block may go on after it returned; before it is over, nothing is in the stream.
void NcclLink::settle(ncclResult_t result, const char* call, std::chrono::seconds patience) {
  if (result == ncclInProgress) {
    wait_until([&] { return (result = state()) != ncclInProgress; }, call, patience);
  }
  check_nccl(result, call);
}

template <class Done>
void NcclLink::wait_until(Done done, const char* call, std::chrono::seconds patience) {
  constexpr int kBriefly = 64;  // turns without sleep: most pieces are there at once
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (int turn = 0; !done(); ++turn) {
    HALFQUAD_REQUIRE(!aborted_.load(std::memory_order_relaxed), kDevice, "the link was given up");
    const ncclResult_t now = state();
    if (now != ncclInProgress) check_nccl(now, call);
    HALFQUAD_REQUIRE(std::chrono::steady_clock::now() < deadline, kDevice,
                     std::string(call) + " did not move for " + std::to_string(patience.count()) + " s");
    if (turn < kBriefly) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

}  // namespace

std::vector<std::byte> nccl_link_identity(int device) { return bytes_of(identity_of(device)); }

AcceptedLink accept_nccl_link(int device, std::span<const std::byte> identity) {
  const auto theirs = value_of<Identity>(identity);
  const Identity ours = identity_of(device);
  HALFQUAD_REQUIRE(std::memcmp(&theirs.device, &ours.device, sizeof ours.device) != 0, kUsage,
                   "NCCL does not connect processes that share a device");
  HALFQUAD_REQUIRE(theirs.version == ours.version, kUsage, "the other process has another version of NCCL");
  const DeviceGuard guard(device);
  ncclUniqueId id{};
  check_nccl(nccl_library().get_unique_id(&id), "ncclGetUniqueId");
  return {std::make_unique<NcclLink>(device, Rank::kReceiver, id), bytes_of(id)};
}

std::unique_ptr<DeviceLink> join_nccl_link(int device, std::span<const std::byte> invitation) {
  return std::make_unique<NcclLink>(device, Rank::kSender, value_of<ncclUniqueId>(invitation));
}

}  // namespace halfquad::cuda
