#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace halfquad {

/// What a thread of a job does; it waits for the rest of the time.
enum class Activity : std::uint8_t { kRead, kSolve, kWrite, kOther };
inline constexpr std::size_t kActivities = 4;
[[nodiscard]] std::string_view name_of(Activity activity) noexcept;

/// Some threads of a job over its time.
struct TimeRow {
  std::string name;  ///< "rank 0, worker 1", "rank 0, 16 workers", "ranks 0 to 7, workers"
  std::size_t lanes = 0;
  std::array<double, kActivities> seconds{};  ///< Summed over the threads.
  /// For every slice of the job's time, the part of the threads' time that goes to each activity: together at most 1.
  std::array<std::vector<float>, kActivities> parts;

  [[nodiscard]] double wait_seconds(double job_seconds) const noexcept;
};

/// The time line of a job, cut into equal slices of time.
struct TimeLine {
  double seconds = 0;
  std::size_t slices = 0;
  std::vector<TimeRow> rows;  ///< One per thread; where that would be too many, threads of a kind together.
  std::size_t ranks = 0, lanes = 0;
};

struct TimeLineOptions {
  std::size_t slices = 240;
  std::size_t most_rows = 48;
};

/// Reads what `quantize --trace` wrote. Throws kBadInput naming `name` and the line of what is malformed.
[[nodiscard]] TimeLine parse_time_line(std::string_view trace, const std::string& name, const TimeLineOptions& options);

}  // namespace halfquad
