#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "sharding/rules.h"

namespace halfquad {

/// The source's config.json with the quantization_config that transformers 4.5x reads: the most frequent spec, and
/// skip_modules naming lm_head and every 2-D weight's module that is not quantized.
[[nodiscard]] boost::json::object hqq_config(const Checkpoint& checkpoint, std::span<const Decision> decisions);

/// Pairs (skip entry, quantized module) where transformers' substring test would wrongly skip a quantized module.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> skip_conflicts(const Checkpoint& checkpoint,
                                                                              std::span<const Decision> decisions);

}  // namespace halfquad
