#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mpi.h>

#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/communicator.h"
#include "runtime/feature.h"

namespace halfquad {
namespace {

// A message on the wire: a packet (header, then the data if it is short) and, if it is long, the data in parts. All of
// it has one MPI tag on one MPI communicator, so that MPI itself keeps the order between two ranks.
constexpr int kWireTag = 0;
// Short enough for Open MPI and MPICH to send it off without asking the receiver first.
constexpr std::size_t kMaxPacketBytes = 4000;
constexpr std::uint32_t kMagic = 0x31514851;

struct Header {
  std::uint32_t magic = kMagic;
  std::int32_t tag = 0;
  std::uint64_t data_bytes = 0;
};

constexpr int kNobody = -1;

void check(int code, const char* what, int peer = kNobody) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  const bool known = MPI_Error_string(code, text.data(), &length) == MPI_SUCCESS;
  std::string message = std::string("MPI failed ") + what;
  if (peer != kNobody) message += " rank " + std::to_string(peer);
  message +=
      ": " + (known ? std::string(text.data(), static_cast<std::size_t>(length)) : "error " + std::to_string(code));
  throw Error(ErrorCode::kIo, message);
}

int mpi_count(std::size_t bytes) {
  const std::optional<int> count = checked_cast<int>(bytes);
  HALFQUAD_REQUIRE(count.has_value(), kInternal, std::to_string(bytes) + " bytes are too many for one MPI call");
  return *count;
}

/// Messages on their way out, with their buffers. Several may be under way to one rank; MPI starts them in order.
class Outbox {
 public:
  Outbox(MPI_Comm comm, std::size_t part_bytes) : comm_(comm), part_bytes_(part_bytes) {}

  void send(Message message) {
    const Header header{.tag = message.tag, .data_bytes = message.data.size()};
    const bool in_one_packet = message.data.size() <= kMaxPacketBytes - sizeof(Header);
    auto outgoing = std::make_shared<Outgoing>();
    outgoing->rank = message.rank;
    outgoing->packet.resize(sizeof(Header) + (in_one_packet ? message.data.size() : 0));
    std::memcpy(outgoing->packet.data(), &header, sizeof(Header));
    ++unsent_;
    if (in_one_packet) {
      std::copy(message.data.begin(), message.data.end(), outgoing->packet.begin() + sizeof(Header));
      post(outgoing, outgoing->packet);
      return;
    }
    outgoing->data = std::move(message.data);
    post(outgoing, outgoing->packet);
    for (std::span<const std::byte> left = outgoing->data; !left.empty();) {
      const std::span<const std::byte> part = left.first(std::min(left.size(), part_bytes_));
      post(outgoing, part);
      left = left.subspan(part.size());
    }
  }

  void progress() {
    if (requests_.empty()) return;
    done_.resize(requests_.size());
    statuses_.resize(requests_.size());
    int done = 0;
    const int code = MPI_Testsome(mpi_count(requests_.size()), requests_.data(), &done, done_.data(), statuses_.data());
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) check(code, "sending messages");
    if (done == MPI_UNDEFINED || done == 0) return;
    for (std::size_t i = 0; i < static_cast<std::size_t>(done); ++i) {
      Outgoing& outgoing = *owners_[static_cast<std::size_t>(done_[i])];
      if (code == MPI_ERR_IN_STATUS) check(statuses_[i].MPI_ERROR, "sending to", outgoing.rank);
      if (--outgoing.under_way == 0) --unsent_;
    }
    forget_finished();
  }

  [[nodiscard]] std::size_t unsent() const noexcept { return unsent_; }

 private:
  struct Outgoing {
    int rank = 0;
    std::vector<std::byte> packet;
    std::vector<std::byte> data;
    std::size_t under_way = 0;  ///< The packet and the parts that MPI still holds.
  };

  void post(const std::shared_ptr<Outgoing>& outgoing, std::span<const std::byte> bytes) {
    requests_.push_back(MPI_REQUEST_NULL);
    owners_.push_back(outgoing);
    ++outgoing->under_way;
    check(
        MPI_Isend(bytes.data(), mpi_count(bytes.size()), MPI_BYTE, outgoing->rank, kWireTag, comm_, &requests_.back()),
        "sending to", outgoing->rank);
  }

  void forget_finished() {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      requests_[kept] = requests_[i];
      if (kept != i) owners_[kept] = std::move(owners_[i]);
      ++kept;
    }
    requests_.resize(kept);
    owners_.resize(kept);
  }

  MPI_Comm comm_;
  std::size_t part_bytes_;
  std::size_t unsent_ = 0;
  std::vector<MPI_Request> requests_;
  std::vector<std::shared_ptr<Outgoing>> owners_;  ///< Of the request with the same index.
  std::vector<int> done_;
  std::vector<MPI_Status> statuses_;
};

/// Puts arriving parts together, for every source by itself: a sender that pauses in the middle of a long message holds
/// up neither the other senders nor the caller.
class Inbox {
 public:
  Inbox(MPI_Comm comm, int ranks) : comm_(comm), sources_(static_cast<std::size_t>(ranks)) {}

  std::optional<Message> next() {
    for (std::size_t i = 0; i < busy_.size();) {
      if (!advance(busy_[i])) {
        ++i;
        continue;
      }
      busy_[i] = busy_.back();
      busy_.pop_back();
    }
    while (ready_.empty() && match_one()) continue;
    if (ready_.empty()) return std::nullopt;
    Message message = std::move(ready_.front());
    ready_.pop_front();
    return message;
  }

  /// Whether MPI is writing into no buffer of ours.
  [[nodiscard]] bool idle() const noexcept { return busy_.empty(); }

 private:
  struct Matched {
    MPI_Message handle = MPI_MESSAGE_NULL;
    std::size_t bytes = 0;
  };
  struct Source {
    std::deque<Matched> matched;  ///< Has to wait for the part before it.
    MPI_Request request = MPI_REQUEST_NULL;
    std::vector<std::byte> packet;
    bool in_parts = false;  ///< The packet of a long message has come, not yet all of its parts.
    Message message;
    std::size_t data_bytes = 0;  ///< Of the whole message.
  };

  [[nodiscard]] Source& source_of(int rank) { return sources_[static_cast<std::size_t>(rank)]; }

  bool match_one() {
    int found = 0;
    Matched matched;
    MPI_Status status{};
    check(MPI_Improbe(MPI_ANY_SOURCE, kWireTag, comm_, &found, &matched.handle, &status), "looking for messages");
    if (found == 0) return false;
    const int rank = status.MPI_SOURCE;
    int count = 0;
    check(MPI_Get_count(&status, MPI_BYTE, &count), "measuring a message from", rank);
    matched.bytes = checked_cast<std::size_t>(count).value_or(0);
    Source& source = source_of(rank);
    source.matched.push_back(matched);
    if (source.request == MPI_REQUEST_NULL && !advance(rank)) busy_.push_back(rank);
    return true;
  }

  /// Takes what has come from `rank`. False when MPI is still busy with a part of it.
  bool advance(int rank) {
    Source& source = source_of(rank);
    while (true) {
      if (source.request != MPI_REQUEST_NULL) {
        int done = 0;
        check(MPI_Test(&source.request, &done, MPI_STATUS_IGNORE), "receiving from", rank);
        if (done == 0) return false;
        finish_part(source, rank);
      }
      if (source.matched.empty()) return true;
      start_part(source, rank);
    }
  }

  void start_part(Source& source, int rank) {
    Matched matched = source.matched.front();
    source.matched.pop_front();
    std::byte* into = nullptr;
    if (source.in_parts) {
      std::vector<std::byte>& data = source.message.data;
      require_protocol(matched.bytes <= source.data_bytes - data.size(), rank);
      data.resize(data.size() + matched.bytes);  // Reserved; clearing gigabytes at once would block the caller.
      into = data.data() + data.size() - matched.bytes;
    } else {
      require_protocol(matched.bytes >= sizeof(Header) && matched.bytes <= kMaxPacketBytes, rank);
      source.packet.resize(matched.bytes);
      into = source.packet.data();
    }
    check(MPI_Imrecv(into, mpi_count(matched.bytes), MPI_BYTE, &matched.handle, &source.request), "receiving from",
          rank);
  }

  void finish_part(Source& source, int rank) {
    if (!source.in_parts) {
      open_packet(source, rank);
    }
    if (source.in_parts && source.message.data.size() < source.data_bytes) return;
    source.in_parts = false;
    ready_.push_back(std::exchange(source.message, Message{}));
  }

  static void open_packet(Source& source, int rank) {
    Header header;
    std::memcpy(&header, source.packet.data(), sizeof(Header));
    const std::span<const std::byte> data = std::span(source.packet).subspan(sizeof(Header));
    require_protocol(header.magic == kMagic && (data.empty() || data.size() == header.data_bytes), rank);
    source.message = {.rank = rank, .tag = header.tag, .data = {data.begin(), data.end()}};
    source.in_parts = data.size() < header.data_bytes;
    source.data_bytes = header.data_bytes;
    if (source.in_parts) source.message.data.reserve(header.data_bytes);
  }

  static void require_protocol(bool holds, int rank) {
    HALFQUAD_REQUIRE(holds, kIo,
                     "rank " + std::to_string(rank) + " sent what this halfquad does not understand; all ranks must " +
                         "run the same version");
  }

  MPI_Comm comm_;
  std::vector<Source> sources_;
  std::vector<int> busy_;  ///< Sources with a request.
  std::deque<Message> ready_;
};

MPI_Comm join_job() {
  int initialized = 0;
  check(MPI_Initialized(&initialized), "starting");
  HALFQUAD_REQUIRE(initialized == 0, kInternal, "MPI was started before; a process joins its job once");
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "starting");
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "starting");
  HALFQUAD_REQUIRE(provided >= MPI_THREAD_FUNNELED, kIo,
                   "this MPI library does not allow threads beside MPI (MPI_THREAD_FUNNELED), which halfquad needs");
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "starting");
  check(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "starting");
  return comm;
}

class MpiCommunicator final : public Communicator {
 public:
  // A throw leaves MPI running: without MPI_Finalize mpirun or srun take this rank for failed and end the job.
  explicit MpiCommunicator(std::size_t part_bytes)
      : comm_(join_job()),
        rank_(rank_in(comm_)),
        size_(size_of(comm_)),
        outbox_(comm_, part_bytes),
        inbox_(comm_, size_) {
    MPI_Comm local = MPI_COMM_NULL;
    check(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local),
          "finding this machine's ranks");
    local_rank_ = rank_in(local);
    local_size_ = size_of(local);
    check(MPI_Comm_free(&local), "finding this machine's ranks");
  }

  ~MpiCommunicator() override {
    try {
      leave_job();
    } catch (const std::exception&) {  // As in the constructor.
    }
  }

  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return size_; }
  [[nodiscard]] int local_size() const noexcept override { return local_size_; }
  [[nodiscard]] int local_rank() const noexcept override { return local_rank_; }
  [[nodiscard]] std::string name() const override { return mpi_feature().detail; }

  void send(Message message) override {
    HALFQUAD_REQUIRE(message.rank >= 0 && message.rank < size_, kInternal,
                     "a message for rank " + std::to_string(message.rank) + " of " + std::to_string(size_));
    outbox_.send(std::move(message));
  }

  [[nodiscard]] std::optional<Message> receive() override {
    outbox_.progress();
    return inbox_.next();
  }

  [[nodiscard]] std::size_t unsent() const noexcept override { return outbox_.unsent(); }
  [[nodiscard]] bool moving() const noexcept override { return outbox_.unsent() > 0 || !inbox_.idle(); }

  [[noreturn]] void abort(int exit_code) noexcept override {
    MPI_Abort(comm_, exit_code);
    std::_Exit(exit_code);
  }

 private:
  static int rank_in(MPI_Comm comm) {
    int rank = 0;
    check(MPI_Comm_rank(comm, &rank), "counting ranks");
    return rank;
  }
  static int size_of(MPI_Comm comm) {
    int size = 0;
    check(MPI_Comm_size(comm, &size), "counting ranks");
    return size;
  }

  /// Waits, almost idle, until every rank has got rid of its messages; unread ones are dropped here, since a long one
  /// leaves its sender only when it is received.
  void leave_job() {
    MPI_Request all_sent = MPI_REQUEST_NULL;
    int left = 0;
    while (left == 0 || !inbox_.idle()) {
      const bool moved = receive().has_value();
      if (left == 0 && all_sent == MPI_REQUEST_NULL && unsent() == 0) {
        check(MPI_Ibarrier(comm_, &all_sent), "leaving the job");
      }
      if (all_sent != MPI_REQUEST_NULL) check(MPI_Test(&all_sent, &left, MPI_STATUS_IGNORE), "leaving the job");
      if (left == 0 && !moved && inbox_.idle() && unsent() == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
    check(MPI_Comm_free(&comm_), "leaving the job");
    check(MPI_Finalize(), "leaving the job");
  }

  MPI_Comm comm_;
  int rank_;
  int size_;
  int local_rank_ = 0;
  int local_size_ = 1;
  Outbox outbox_;
  Inbox inbox_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(std::size_t part_bytes) {
  HALFQUAD_REQUIRE(part_bytes > 0 && checked_cast<int>(part_bytes).has_value(), kInternal,
                   "parts of " + std::to_string(part_bytes) + " bytes do not fit MPI's counts");
  return std::make_unique<MpiCommunicator>(part_bytes);
}

}  // namespace halfquad
