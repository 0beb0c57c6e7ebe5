#include "runtime/trace.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "runtime/json_text.h"

namespace halfquad {
namespace {

std::int64_t microseconds(Trace::Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

}  // namespace

std::int64_t unix_microseconds() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Trace::Trace(int rank) : rank_(rank), epoch_us_(unix_microseconds()), start_(Clock::now()) {}

void Trace::add(const std::string& lane, std::string name, Clock::time_point start, Clock::time_point end) {
  Event event{rank_, lane, std::move(name), epoch_us_ + microseconds(start - start_), microseconds(end - start)};
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
}

void Trace::add(std::vector<Event> events) {
  const std::lock_guard lock(mutex_);
  std::move(events.begin(), events.end(), std::back_inserter(events_));
}

std::vector<Trace::Event> Trace::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

std::string Trace::json() const {
  const std::lock_guard lock(mutex_);
  std::int64_t first = events_.empty() ? 0 : events_.front().start_us;
  std::map<std::pair<int, std::string>, int> lanes;
  for (const Event& event : events_) {
    first = std::min(first, event.start_us);
    lanes.try_emplace({event.rank, event.lane}, 0);
  }
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  int number = 0;
  int named = -1;
  for (auto& [lane, id] : lanes) {
    id = number++;
    if (lane.first != named) {
      named = lane.first;
      text +=
          fmt::format(R"({{"ph":"M","name":"process_name","pid":{0},"args":{{"name":"rank {0}"}}}},)", named) + '\n';
    }
    text += fmt::format(R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":{}}}}},)", lane.first, id,
                        json_string(lane.second)) +
            '\n';
  }
  for (std::size_t i = 0; i < events_.size(); ++i) {
    const Event& event = events_[i];
    text += fmt::format(R"({{"ph":"X","pid":{},"tid":{},"ts":{},"dur":{},"name":{}}}{})", event.rank,
                        lanes.at({event.rank, event.lane}), event.start_us - first, event.duration_us,
                        json_string(event.name), i + 1 < events_.size() ? ",\n" : "\n");
  }
  if (events_.empty() && text.ends_with(",\n")) text.erase(text.size() - 2);
  return text + "]}\n";
}

}  // namespace halfquad
