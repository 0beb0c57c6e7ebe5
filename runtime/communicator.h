#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace halfquad {

/// What one rank sends another. `tag` is the receiver's business.
struct Message {
  int rank = 0;  ///< Received: the sender. To be sent: the receiver.
  int tag = 0;
  std::vector<std::byte> data;
};

/// The ranks of one job, as mailboxes: messages between two ranks arrive in the order they were sent. One object per
/// rank, used by one thread at a time (MPI_THREAD_FUNNELED), which has to call receive() often: that is also what lets
/// messages leave. Errors of the transport throw Error(kIo) naming the peer.
class Communicator {
 public:
  virtual ~Communicator() = default;

  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;
  /// Ranks on the same machine as this one (itself included), and this one's number among them.
  [[nodiscard]] virtual int local_size() const noexcept = 0;
  [[nodiscard]] virtual int local_rank() const noexcept = 0;
  /// "Open MPI v4.1.4", "threads", "one process".
  [[nodiscard]] virtual std::string name() const = 0;

  /// Returns at once; the message leaves in this and later calls. Any length. Nothing holds a sender back: what a slow
  /// receiver has not taken stays in memory, so callers bound what they have under way (credits, acknowledgements).
  virtual void send(Message message) = 0;
  /// The next message that has arrived, from any rank, or nothing. Never blocks.
  [[nodiscard]] virtual std::optional<Message> receive() = 0;
  /// Messages not yet handed over to the transport. Drive with receive().
  [[nodiscard]] virtual std::size_t unsent() const noexcept = 0;
  /// Whether a message is on its way out, or in as far as is known here: it moves on in receive() only.
  [[nodiscard]] virtual bool moving() const noexcept { return unsent() > 0; }

  /// Ends the job on all ranks at once, without a word to anybody: MPI_Abort; the whole process (no destructors, no
  /// atexit) where the ranks are threads of it or there is only one.
  [[noreturn]] virtual void abort(int exit_code) noexcept = 0;
};

/// The job of a process that was started alone.
[[nodiscard]] std::unique_ptr<Communicator> make_single_communicator();

/// `size` communicators for as many threads of one process: for tests.
[[nodiscard]] std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size);

/// Parts that long messages travel in: far below what MPI's int counts hold, and as fast as one piece.
inline constexpr std::size_t kMpiPartBytes = std::size_t{64} << 20;

/// Joins the job this process was started in by mpirun or srun; once per process (MPI_Init_thread). The destructor
/// waits, almost idle, until every rank is in its own and all messages have left, drops the unread ones and calls
/// MPI_Finalize: a rank that fails has to abort() instead. Ranks may differ in `part_bytes`, which is for tests.
/// Throws kUsage when this program was built without MPI.
[[nodiscard]] std::unique_ptr<Communicator> make_mpi_communicator(std::size_t part_bytes = kMpiPartBytes);

}  // namespace halfquad
