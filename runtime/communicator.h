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

  /// Returns at once; the message leaves in this and later calls. Any length.
  virtual void send(Message message) = 0;
  /// The next message that has arrived, from any rank, or nothing. Never blocks.
  [[nodiscard]] virtual std::optional<Message> receive() = 0;
  /// Messages not yet handed over to the transport. Drive with receive().
  [[nodiscard]] virtual std::size_t unsent() const noexcept = 0;

  /// Ends the job on all ranks at once, without a word to anybody.
  [[noreturn]] virtual void abort(int exit_code) noexcept = 0;
};

/// The job of a process that was started alone.
[[nodiscard]] std::unique_ptr<Communicator> make_single_communicator();

/// `size` communicators for as many threads of one process: for tests.
[[nodiscard]] std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size);

/// Joins the job this process was started in by mpirun or srun (MPI_Init_thread; MPI_Finalize in the destructor, which
/// every rank must reach or abort()). Throws kUsage when this program was built without MPI.
[[nodiscard]] std::unique_ptr<Communicator> make_mpi_communicator();

}  // namespace halfquad
