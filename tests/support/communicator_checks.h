#pragma once

#include <cstddef>
#include <span>

#include "runtime/communicator.h"

namespace halfquad::test {

/// Sizes of the long messages: small for every day, beyond 2 GiB by hand.
struct CommunicatorCheckSizes {
  std::size_t long_bytes = (std::size_t{8} << 20) + 5;
  double patience_s = 60;  ///< For any one message; past it the check fails.
};

class MeetingRanks;

/// One promise of Communicator.
struct CommunicatorCheck {
  const char* name;
  void (*run)(MeetingRanks& ranks, const CommunicatorCheckSizes& sizes);
};

/// The same for threads and for MPI.
[[nodiscard]] std::span<const CommunicatorCheck> communicator_checks();

/// To be called on every rank of the job. Returns on all of them together, or throws Error(kInternal) with the check's
/// name and what is wrong on this rank.
void run_communicator_checks(Communicator& ranks, const CommunicatorCheckSizes& sizes,
                             std::span<const CommunicatorCheck> checks = communicator_checks());

}  // namespace halfquad::test
