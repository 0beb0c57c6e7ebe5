#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/report_view.h"
#include "launcher/time_line.h"
#include "sharding/value_histogram.h"

namespace halfquad {

/// All that is told of one output. Refers to its report file.
struct OutputReport {
  std::string name;  ///< Short, for headings and legends.
  ReportView view;
  std::optional<TimeLine> time_line;
  std::vector<LayerHistogram> histograms;  ///< Of the layers with the worst errors, in that order.
  std::string histogram_note;              ///< Why there are none, or no differences; one sentence, or nothing.

  [[nodiscard]] const ReportFile& file() const noexcept { return *view.file; }
};

// Figures as people read them, the same everywhere. Nothing, "not defined".

/// "0.08312", "3.1e-05".
[[nodiscard]] std::string error_text(const std::optional<double>& error);
/// "21.6 dB".
[[nodiscard]] std::string decibel_text(const std::optional<double>& sqnr);
/// "27.8 %"
[[nodiscard]] std::string percent_text(double part, double whole);
/// "+3.1 %"
[[nodiscard]] std::string change_text(const std::optional<double>& change);
/// "4.500"
[[nodiscard]] std::string bits_text(double bits);
/// "0.53 s", "03:04", "26:03:04".
[[nodiscard]] std::string seconds_text(double seconds);
/// For a shell: words with anything but plain characters in single quotes.
[[nodiscard]] std::string shell_text(const std::vector<std::string>& words);
/// "hqq: 4 bit, groups of 64, hqq and 2 other settings".
[[nodiscard]] std::string what_it_is(const OutputReport& output);

}  // namespace halfquad
