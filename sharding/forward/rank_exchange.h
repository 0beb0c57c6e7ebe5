#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/error.h"
#include "runtime/stop_flag.h"

namespace halfquad {

/// Ranks that do the same steps, each a part of it, and give each other the results. Used from one thread of a rank.
class RankExchange {
 public:
  /// `host`: for messages that name this rank.
  RankExchange(Communicator& communicator, std::string host, const StopFlag& stop);

  [[nodiscard]] int rank() const noexcept { return communicator_.rank(); }
  [[nodiscard]] int size() const noexcept { return communicator_.size(); }

  /// What every rank gave, by rank. Collective: all ranks make these calls in the same order, and return when they have
  /// everything and their own has left. Throws the error of a rank that called fail(), naming it; kInterrupted.
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::vector<std::byte> mine);

  /// Collective, and the last call: returns when nothing of this exchange is still to be received, so that another user
  /// of the communicator finds it empty. Throws as all_gather().
  void leave();

  /// Tells all ranks of an error that ends this one's part, unless it was another rank's; they all throw it.
  void fail(const Error& error) noexcept;

 private:
  void take(Message message);
  /// Waits for the messages of this step from `missing` ranks, until all that was sent has left if `flush`; hands each
  /// to `keep`.
  void collect(int missing, bool flush, const std::function<void(Message&)>& keep);
  void send_to_all(int tag, const std::vector<std::byte>& data);

  Communicator& communicator_;
  const std::string host_;
  const StopFlag& stop_;
  int step_ = 0;
  bool ended_by_other_ = false;
  std::vector<Message> early_;  // of steps that this rank has not come to
};

}  // namespace halfquad
