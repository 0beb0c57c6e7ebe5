// Started by mpirun: the checks of Communicator on all ranks. The first failure ends the whole job with code 1.
//   test_communicator_mpi [--part-bytes N] [--long-bytes N] [--abort CODE] [--ranks N]
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/error.h"
#include "tests/support/communicator_checks.h"

namespace halfquad {
namespace {

struct Arguments {
  std::size_t part_bytes = kMpiPartBytes;
  test::CommunicatorCheckSizes sizes;
  int abort_code = 0;
  int ranks = 0;
};

Arguments parse(int count, char** words) {
  Arguments arguments;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string_view option = words[i];
    const unsigned long long value = std::stoull(words[i + 1]);
    if (option == "--part-bytes") {
      arguments.part_bytes = value;
    } else if (option == "--long-bytes") {
      arguments.sizes.long_bytes = value;
    } else if (option == "--abort") {
      arguments.abort_code = static_cast<int>(value);
    } else if (option == "--ranks") {
      arguments.ranks = static_cast<int>(value);
    } else {
      throw std::invalid_argument(words[i]);
    }
  }
  return arguments;
}

/// The last rank ends the job; the others would wait for ever.
[[noreturn]] void wait_for_abort(Communicator& ranks, int code) {
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  if (ranks.rank() == ranks.size() - 1) ranks.abort(code);
  while (true) static_cast<void>(ranks.receive());
}

void expect_refusal(const char* what, std::unique_ptr<Communicator> (*join)()) {
  try {
    static_cast<void>(join());
  } catch (const Error&) {
    return;
  }
  throw std::runtime_error(std::string("not refused: ") + what);
}

/// Rank 0 looks only when the others are already leaving the job.
void take_what_left_late(Communicator& ranks) {
  if (ranks.rank() != 0) {
    ranks.send({.rank = 0, .tag = 3, .data = std::vector<std::byte>(1 << 20, std::byte{5})});
    return;
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  for (int missing = ranks.size() - 1; missing > 0;) {
    const auto message = ranks.receive();
    if (!message || message->tag != 3) continue;
    if (message->data != std::vector<std::byte>(1 << 20, std::byte{5}))
      throw std::runtime_error("altered when leaving");
    --missing;
  }
}

/// Nobody reads these; ranks leave the job all the same.
void leave_unread(Communicator& ranks) {
  for (int to = 0; to < ranks.size(); ++to) {
    ranks.send({.rank = to, .tag = 1, .data = std::vector<std::byte>(7)});
    ranks.send({.rank = to, .tag = 2, .data = std::vector<std::byte>(1 << 20)});
  }
}

void run(Communicator& ranks, const Arguments& arguments) {
  if (arguments.ranks != 0 && ranks.size() != arguments.ranks) {
    throw std::runtime_error("a job of " + std::to_string(ranks.size()) + " ranks; is this mpirun of another MPI?");
  }
  if (arguments.abort_code != 0) wait_for_abort(ranks, arguments.abort_code);
  test::run_communicator_checks(ranks, arguments.sizes);
  expect_refusal("joining a second time", [] { return make_mpi_communicator(); });
  expect_refusal("parts of no bytes", [] { return make_mpi_communicator(0); });
  expect_refusal("parts beyond int", [] { return make_mpi_communicator(std::size_t{1} << 31U); });
  if (ranks.rank() == 0) std::printf("%d ranks, %s: all checks hold\n", ranks.size(), ranks.name().c_str());
  take_what_left_late(ranks);
  leave_unread(ranks);
}

}  // namespace
}  // namespace halfquad

int main(int count, char** words) {
  const halfquad::Arguments arguments = halfquad::parse(count, words);
  const auto ranks = halfquad::make_mpi_communicator(arguments.part_bytes);
  try {
    halfquad::run(*ranks, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d of %d: %s\n", ranks->rank(), ranks->size(), error.what());
    ranks->abort(1);
  }
}
