#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"

namespace halfquad {

/// A quantized layer as halfquad_report.json tells of it (io/FORMAT.md).
struct ReportedLayer {
  std::string module;
  std::int64_t rows = 0, cols = 0;
  std::string bits;  ///< Of a code: "4", "1.58".
  std::int64_t group_size = 0, axis = 1;
  bool per_tensor = false;
  std::string solver;
  std::int64_t steps = 0;
  bool stopped_early = false;
  double mean_abs_error = 0, max_abs_error = 0;
  std::optional<double> relative_error, sqnr_db;  ///< Nothing: not defined.
  std::optional<double>
      weighted_relative_error;  ///< Nothing: its columns count the same, or an older version's report.
  std::int64_t zeroed = 0;
  double seconds = 0;
  std::optional<std::uint64_t> stored_bytes;  ///< Nothing in reports of older versions.

  [[nodiscard]] double weights() const noexcept { return static_cast<double>(rows) * static_cast<double>(cols); }
  /// Scales and zeros included; the bits of a code where the report has no stored_bytes.
  [[nodiscard]] double bits_per_weight() const noexcept;
};

struct ReportedRank {
  std::string host;
  std::uint64_t bytes_read = 0, bytes_written = 0, weights = 0;
  double read_wait_seconds = 0, solve_seconds = 0, write_seconds = 0;  ///< Summed over threads.
  std::vector<std::string> devices;
};

/// halfquad_report.json, checked.
struct ReportFile {
  struct SourceFile {
    std::string name;
    std::uint64_t bytes = 0;
    std::string header_xxh3;
  };
  struct Kept {
    std::string name;
    std::uint64_t bytes = 0;
    std::string reason;
  };
  struct Checksum {
    std::string tensor, xxh3;
  };
  struct Totals {
    std::uint64_t source_bytes = 0, output_bytes = 0, quantized_bytes = 0, kept_bytes = 0;
    std::uint64_t quantized_weights = 0;
    double bits_per_weight = 0;
    std::optional<double> relative_error, sqnr_db;
    std::optional<double> weighted_relative_error;  ///< Of the layers that have one.
    double mean_abs_error = 0, max_abs_error = 0;
    double seconds = 0;
    std::uint64_t bytes_read = 0, bytes_written = 0, peak_resident_bytes = 0, memory_bytes = 0;
    std::int64_t threads = 0;
    std::string solver;
  };
  struct Converted {
    std::string path, format;
    std::int64_t exact_layers = 0;
    std::size_t changed_layers = 0;
  };

  std::filesystem::path path;  ///< Of the report.
  std::string output;          ///< As the user named it.
  std::string version;         ///< Of the halfquad that wrote it.
  std::vector<std::string> command;
  std::string source_path;
  std::vector<SourceFile> source_files;
  std::string format;  ///< Empty in reports of older versions.
  std::string scale_dtype, nonfinite;
  Totals totals;
  std::vector<ReportedRank> ranks;
  std::string assembly;  ///< "direct", "gather"; empty in reports of older versions.
  std::int64_t files = 1;
  std::vector<ReportedLayer> layers;
  std::vector<Kept> kept;
  std::vector<Checksum> checksums;  ///< In the file's order.
  std::optional<Converted> converted;
};

/// Where the report of `output` lies: in the directory, beside a single file, or `output` itself when it is a .json
/// file. Throws kBadInput when there is none, saying what was looked for.
[[nodiscard]] std::filesystem::path find_report(FileSystem& fs, const std::string& output);

/// Parses a report. Throws kBadInput naming `path` and the place of what is missing, of the wrong type or impossible.
[[nodiscard]] ReportFile parse_report_file(std::string_view text, const std::filesystem::path& path,
                                           const std::string& output);

/// find_report() and parse_report_file().
[[nodiscard]] ReportFile read_report_file(FileSystem& fs, const std::string& output);

}  // namespace halfquad
