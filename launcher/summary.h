#pragma once

#include <filesystem>
#include <string>

#include "launcher/human_count.h"
#include "launcher/inventory.h"
#include "launcher/job.h"
#include "launcher/report.h"

namespace halfquad {

/// Tables of what is quantized how and what is kept why; part of `plan` and of the summary.
[[nodiscard]] std::string inventory_text(const Inventory& inventory);

/// What `quantize` prints when it is done.
[[nodiscard]] std::string summary_text(const Job& job, const RunResult& result, const RunFacts& facts,
                                       const std::filesystem::path& out);

}  // namespace halfquad
