#pragma once

#include <span>
#include <string>

#include <boost/json/array.hpp>

#include "sharding/code_histogram.h"
#include "sharding/quantized_model.h"

namespace halfquad {

/// Bars for every layer, at most 32 lines each: wider codes share lines.
[[nodiscard]] std::string histograms_text(const QuantizedModel& output, std::span<const CodeHistogram> histograms);
/// Every code's count.
[[nodiscard]] boost::json::array histograms_json(const QuantizedModel& output,
                                                 std::span<const CodeHistogram> histograms);

}  // namespace halfquad
