#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "kernels/quant_spec.h"

namespace halfquad {

/// What verification needs from halfquad_report.json (io/FORMAT.md, "halfquad_report.json, version 1").
struct RunReport {
  struct File {
    std::string name;
    std::uint64_t bytes = 0;
    std::string header_xxh3;
  };
  struct Layer {
    std::int64_t rows = 0, cols = 0;
    std::string bits;
    std::int64_t group_size = 0;
    std::int64_t axis = 0;
    double mean_abs_error = 0;
    std::optional<double> relative_error;
    std::int64_t zeroed = 0;
    std::string solver = {};
    Importance importance = Importance::kNone;  ///< That its columns were weighed by.
    double importance_power = 1;
    std::optional<double> weighted_relative_error = {};
  };
  struct Tensor {
    std::string xxh3;
    std::uint64_t run_bytes = 0, block_bytes = 0;
  };

  std::vector<File> source_files;
  std::map<std::string, Layer, std::less<>> layers;  ///< By module.
  std::map<std::string, Tensor, std::less<>> tensors;
};

/// Files of the report's source that are none of `source`, one sentence each.
[[nodiscard]] std::vector<std::string> other_source_files(const RunReport& report, const Checkpoint& source);

/// Throws kBadInput naming the place of what is missing or of the wrong type.
[[nodiscard]] RunReport parse_run_report(const boost::json::object& report);

}  // namespace halfquad
