#pragma once

#include <span>
#include <string>

#include "io/checkpoint.h"
#include "io/output_directory.h"

namespace halfquad {

inline constexpr char kReportName[] = "halfquad_report.json";
inline constexpr char kConfigName[] = "config.json";

/// Copies the checkpoint's tokenizer, licence and the like into `out`, byte for byte. Returns how many there
/// were.
std::size_t copy_side_files(FileSystem& fs, const Checkpoint& checkpoint, const OutputDirectory& out);

/// out.discard() while another error is on its way: one of its own would hide the cause.
void discard_quietly(OutputDirectory& out) noexcept;

}  // namespace halfquad
