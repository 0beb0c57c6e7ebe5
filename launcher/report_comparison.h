#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launcher/report_view.h"

namespace halfquad {

/// One module in two outputs.
struct ModuleChange {
  std::string module;
  double first_error = 0, second_error = 0;
  [[nodiscard]] double difference() const noexcept { return second_error - first_error; }
};

/// An output against the first one.
struct OutputDifference {
  std::size_t common = 0;  ///< Modules that both quantized.
  std::size_t only_first = 0, only_second = 0;
  std::size_t better = 0, worse = 0, equal = 0;     ///< Of the common ones with errors: those of the second output.
  std::vector<ModuleChange> changes;                ///< Of these, the largest difference in size first.
  std::size_t same_tensors = 0, other_tensors = 0;  ///< Tensors of both by name whose checksums agree, or do not.
  std::size_t tensors_of_one = 0;                   ///< That only one of the outputs has.
};
[[nodiscard]] OutputDifference difference_of(const ReportFile& first, const ReportFile& second);

/// The stack of `view` that stands beside `stack` of another: the one of its name, or when neither output has a second
/// one, that. Null when there is none.
[[nodiscard]] const Stack* stack_beside(const Stack& stack, const ReportView& of, const ReportView& view);

/// error2 / error1 - 1, where both are defined and the first is not 0.
[[nodiscard]] std::optional<double> relative_change(std::optional<double> first, std::optional<double> second);

}  // namespace halfquad
