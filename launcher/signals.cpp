#include "launcher/signals.h"

#include <array>
#include <atomic>
#include <signal.h>
#include <unistd.h>

#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGUSR1};

// A signal handler gets no argument of ours, so the flag it sets has to be reachable from a static.
std::atomic<StopFlag*> active_stop{nullptr};
static_assert(std::atomic<StopFlag*>::is_always_lock_free, "read from a signal handler");

void on_signal(int number) {
  StopFlag* stop = active_stop.load(std::memory_order_relaxed);
  if (stop == nullptr || stop->requested()) _exit(128 + number);
  stop->request();
}

void set_action(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  HALFQUAD_REQUIRE(sigaction(number, &action, nullptr) == 0, kInternal,
                   "cannot install a handler for signal " + std::to_string(number));
}

}  // namespace

SignalHandlers::SignalHandlers(StopFlag& stop) {
  StopFlag* none = nullptr;
  HALFQUAD_REQUIRE(active_stop.compare_exchange_strong(none, &stop), kInternal,
                   "signal handlers are already installed");
  for (const int number : kSignals) set_action(number, on_signal);
}

SignalHandlers::~SignalHandlers() {
  for (const int number : kSignals) signal(number, SIG_DFL);
  active_stop.store(nullptr);
}

}  // namespace halfquad
