#pragma once

#include <optional>

#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "sharding/given_importance.h"
#include "sharding/quantized_model.h"
#include "sharding/verify.h"

namespace halfquad {

/// What the plain error of a layer does not tell, of those in `result.layers` for which `report` says how they were
/// solved: where columns were weighed, the weighted error, compared with the report's; where hqq found the grids along
/// rows, the error of round to nearest in its place. Reads these layers and their source once more. `importance`: the
/// file that layers were weighted by; without it these stay out.
void verify_quality(FileSystem& fs, const QuantizedModel& output, const boost::json::object& report,
                    const Checkpoint& source, GivenImportance* importance, const VerifyOptions& options,
                    const StopFlag& stop, VerifyResult& result);

}  // namespace halfquad
