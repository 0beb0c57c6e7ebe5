#pragma once

#include <span>
#include <string>

#include "launcher/output_report.h"

namespace halfquad::page {

/// One self-contained HTML page about an output, or about several side by side. The same bytes for the same input.
[[nodiscard]] std::string report_page(std::span<const OutputReport> outputs);

}  // namespace halfquad::page
