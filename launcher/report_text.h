#pragma once

#include <span>
#include <string>

#include "launcher/output_report.h"

namespace halfquad {

/// The most columns of a terminal that report_text() takes.
inline constexpr std::size_t kReportColumns = 80;

/// The same figures as on the page, as far as they fit on a terminal of 80 columns: about one output, or several side
/// by side. Long names are shortened.
[[nodiscard]] std::string report_text(std::span<const OutputReport> outputs);

}  // namespace halfquad
