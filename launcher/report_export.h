#pragma once

#include <span>
#include <string>

#include <boost/json/object.hpp>

#include "launcher/output_report.h"

namespace halfquad {

/// One line per quantized layer of every output, below a line of column names (RFC 4180; io/FORMAT.md has the columns).
[[nodiscard]] std::string report_csv(std::span<const OutputReport> outputs);

/// The figures of the page (io/FORMAT.md, "What `halfquad report --json` writes").
[[nodiscard]] boost::json::object report_json(std::span<const OutputReport> outputs);

}  // namespace halfquad
