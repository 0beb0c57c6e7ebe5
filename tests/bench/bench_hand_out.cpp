// How many pieces of work a second rank 0 hands out: the messages and the queue of a job without the job. Each process
// that mpirun started stands for many of the job's ranks, which ask again as soon as they are answered.
//
// usage: mpirun -n PROCESSES bench_hand_out [PRESET [RANKS]]

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "runtime/communicator.h"
#include "sharding/job_tags.h"
#include "sharding/wire.h"
#include "sharding/work_queue.h"
#include "tests/unit/sharding/preset_plan.h"

namespace halfquad {
namespace {

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

Message ask(std::uint32_t rank) {
  WireWriter out;
  out.put(rank);
  return message_to(0, Tag::kWant, out);
}

/// Answers until every rank has been told that there is no more.
void lead(Communicator& communicator, const Plan& plan, int ranks) {
  WorkQueue queue(plan, ranks, Schedule::kDynamic);
  int asking = ranks;
  std::size_t pieces = 0;
  const auto start = std::chrono::steady_clock::now();
  const double cpu_before = cpu_seconds();
  double idle = 0;
  while (asking > 0) {
    const double before = cpu_seconds();
    const std::optional<Message> message = communicator.receive();
    if (!message) {
      std::this_thread::yield();
      idle += cpu_seconds() - before;
      continue;
    }
    WireReader in(message->data);
    std::uint32_t rank = 0;
    in.get(rank);
    const std::optional<ItemRange> range = queue.next(static_cast<int>(rank));
    range ? ++pieces : static_cast<std::size_t>(--asking);
    WireWriter out;
    out.put(rank);
    out.put(range.has_value());
    out.put(static_cast<std::uint64_t>(range.value_or(ItemRange{}).begin));
    out.put(static_cast<std::uint64_t>(range.value_or(ItemRange{}).end));
    communicator.send(message_to(message->rank, Tag::kRange, out));
  }
  const double cpu = cpu_seconds() - cpu_before - idle;
  while (communicator.unsent() > 0) static_cast<void>(communicator.receive());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const auto answers = static_cast<double>(pieces) + ranks;
  std::printf(
      "%s: %d processes for %d ranks: %zu pieces handed out, %.0f answers a second, %.2f us of rank 0's core each\n",
      communicator.name().c_str(), communicator.size(), ranks, pieces, answers / seconds.count(), cpu / answers * 1e6);
}

void follow(Communicator& communicator, int ranks) {
  const auto processes = communicator.size() - 1;
  int asking = 0;
  for (int rank = communicator.rank() - 1; rank < ranks; rank += processes, ++asking) {
    communicator.send(ask(static_cast<std::uint32_t>(rank)));
  }
  while (asking > 0 || communicator.unsent() > 0) {
    const std::optional<Message> message = communicator.receive();
    if (!message) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      continue;
    }
    WireReader in(message->data);
    std::uint32_t rank = 0;
    bool more = false;
    in.get(rank);
    in.get(more);
    more ? communicator.send(ask(rank)) : static_cast<void>(--asking);
  }
}

}  // namespace
}  // namespace halfquad

int main(int argc, char** argv) try {
  using namespace halfquad;
  const std::string preset = argc > 1 ? argv[1] : "kimi-1t";
  const int ranks = argc > 2 ? std::atoi(argv[2]) : 1024;
  const auto communicator = make_mpi_communicator();
  if (communicator->size() < 2 || ranks < communicator->size()) {
    std::fprintf(stderr,
                 "usage: mpirun -n PROCESSES bench_hand_out [PRESET [RANKS]]: 2 processes or more, as many ranks\n");
    communicator->abort(2);
  }
  if (communicator->rank() == 0) {
    lead(*communicator, test::PresetPlan({.preset = preset}).plan, ranks);
  } else {
    follow(*communicator, ranks);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_hand_out: %s\n", error.what());
  return 70;
}
