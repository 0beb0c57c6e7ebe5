#pragma once

#include <string>

#include <boost/json/object.hpp>

#include "launcher/job.h"
#include "sharding/job_leader.h"

namespace halfquad {

/// What became of the layers of a converted output: "from mlx: 12 layers exact, 2 changed (...)". @pre job.converted.
[[nodiscard]] std::string conversion_text(const Job& job, const RunResult& result);
/// The same for the report.
[[nodiscard]] boost::json::object conversion_json(const Job& job, const RunResult& result);

}  // namespace halfquad
