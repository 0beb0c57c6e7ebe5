#pragma once

#include <functional>
#include <span>
#include <string>

#include "io/checkpoint.h"
#include "io/output_directory.h"
#include "sharding/enclosed_files.h"

namespace halfquad {

inline constexpr char kReportName[] = "halfquad_report.json";
inline constexpr char kConfigName[] = "config.json";

/// Copies the checkpoint's tokenizer, licence and the like into `out`, byte for byte. Returns how many there
/// were.
std::size_t copy_side_files(FileSystem& fs, const Checkpoint& checkpoint, const OutputDirectory& out);
/// The same of those that lie inside another output.
void copy_enclosed_files(FileSystem& fs, std::span<const EnclosedFile> files, const OutputDirectory& out);

/// out.discard() while another error is on its way: one of its own would hide the cause.
void discard_quietly(OutputDirectory& out) noexcept;

/// fill(), then out.commit(). What throws discards the output; an interruption says that there is none.
void fill_and_commit(OutputDirectory& out, const std::function<void()>& fill);

}  // namespace halfquad
