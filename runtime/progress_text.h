#pragma once

#include <string>
#include <string_view>

#include "runtime/progress_tracker.h"

namespace halfquad {

/// One line: percent, GB/s, Mw/s, tensors, ETA, and the slowest rank when it is far behind the others. Rates are those
/// of the whole run. `bar_columns`: of the bar, 0 for none.
[[nodiscard]] std::string progress_text(const ProgressSnapshot& now, int bar_columns);

/// `label` and progress_text() with as long a bar as `columns` leave room for, never wider than `columns`.
[[nodiscard]] std::string fitted_progress_text(std::string_view label, const ProgressSnapshot& now, int columns);

/// A line for each rank, each with its newline; nothing for a job without ranks.
[[nodiscard]] std::string ranks_text(const ProgressSnapshot& now);

/// The same facts as one JSON object without newline; `with_ranks` adds an array of them.
[[nodiscard]] std::string progress_json(std::string_view label, const ProgressSnapshot& now, bool with_ranks);

}  // namespace halfquad
