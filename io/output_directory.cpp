#include "io/output_directory.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using Path = std::filesystem::path;

std::string shown(const Path& path) { return quoted(path.string()); }

/// `out` without a trailing slash; refuses what cannot name a new directory.
Path directory_name(const Path& out) {
  Path name = out.has_filename() ? out : out.parent_path();
  const Path last = name.filename();
  HALFQUAD_REQUIRE(!last.empty() && last != "." && last != "..", kUsage,
                   shown(out) + " does not name a directory that could be created; give the output a name of its own");
  return name;
}

Path with_suffix(Path path, std::string_view suffix) {
  path += suffix;
  return path;
}

/// Whether `inner` is `outer` or lies below it; both canonical.
bool is_within(const Path& inner, const Path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

bool looks_like_model(const std::vector<std::string>& names) {
  if (names.empty()) return true;
  return std::any_of(names.begin(), names.end(), [](std::string_view name) {
    return name == "config.json" || name == "halfquad_report.json" || name.ends_with(".safetensors");
  });
}

}  // namespace

Path partial_path(const Path& out) { return with_suffix(directory_name(out), ".partial"); }

OutputDirectory::OutputDirectory(FileSystem& fs, const Path& out, const Path& source, Overwrite overwrite,
                                 Leftover leftover)
    : OutputDirectory(fs, out, source, overwrite, leftover, std::nullopt) {}

OutputDirectory::OutputDirectory(FileSystem& fs, const Path& out, const Path& source, Overwrite overwrite,
                                 Leftover leftover, std::optional<SingleFile> single)
    : fs_(fs),
      out_(directory_name(out)),
      parent_(out_.has_parent_path() ? out_.parent_path() : Path(".")),
      partial_(partial_path(out)),
      replaced_(with_suffix(out_, ".replaced")),
      lock_path_(with_suffix(out_, ".partial.lock")),
      single_(std::move(single)) {
  HALFQUAD_REQUIRE(
      fs_.kind(parent_) == FileKind::kDirectory, kIo,
      fmt::format("the directory {} that is to hold the output does not exist; create it first", shown(parent_)));
  if (!source.empty()) refuse_overlap(source);
  // What is left of a commit is removed first, even from an OUT that is then refused; that needs the lock.
  if (!died_after_commit()) check_target(overwrite);
  lock_ = fs_.try_lock(lock_path_);
  HALFQUAD_REQUIRE(lock_ != nullptr, kUsage,
                   fmt::format("another process is writing {}; wait for it or choose another name", shown(out_)));
  try {
    recover();
    check_target(overwrite);  // again: only under the lock does it stay true
    replace_ = fs_.kind(out_) == FileKind::kDirectory;
    resumed_ = leftover == Leftover::kKeep && is_resumable();
    if (!resumed_) {
      discard_partial();
      fs_.create_directory(partial_);
    }
  } catch (const Error&) {
    unlock();
    throw;
  }
}

OutputDirectory::~OutputDirectory() = default;

/// What will be replaced, discarded or filled must not be the source, hold it or lie in it.
void OutputDirectory::refuse_overlap(const Path& source) const {
  const Path from = fs_.canonical(source);
  const Path parent = fs_.canonical(parent_);
  for (const Path& ours : {out_, partial_, replaced_}) {
    const bool exists = fs_.kind(ours) != FileKind::kMissing;
    const Path target = exists ? fs_.canonical(ours) : parent / ours.filename();
    HALFQUAD_REQUIRE(target != from, kUsage,
                     fmt::format("the output {} is the source itself; choose another name", shown(ours)));
    HALFQUAD_REQUIRE(
        !is_within(from, target), kUsage,
        fmt::format("the output {} contains the source {}; choose another place", shown(ours), shown(source)));
    HALFQUAD_REQUIRE(
        !is_within(target, from), kUsage,
        fmt::format("the output {} lies inside the source {}; choose a place outside", shown(ours), shown(source)));
  }
}

/// Refuses an OUT that must not be touched.
void OutputDirectory::check_target(Overwrite overwrite) const {
  const FileKind kind = fs_.kind(out_);
  if (kind == FileKind::kMissing) {
    const std::vector<std::string> siblings = fs_.list(parent_);
    HALFQUAD_REQUIRE(!std::binary_search(siblings.begin(), siblings.end(), out_.filename().string()), kUsage,
                     shown(out_) + " is a symbolic link to nothing; remove it or choose another name");
    return;
  }
  const FileKind wanted = single_ ? FileKind::kFile : FileKind::kDirectory;
  HALFQUAD_REQUIRE(kind == wanted, kUsage,
                   fmt::format("{} exists and is not a {}; remove it or choose another name", shown(out_),
                               single_ ? "file" : "directory"));
  const Path real = fs_.canonical(out_);
  HALFQUAD_REQUIRE(real == fs_.canonical(parent_) / out_.filename(), kUsage,
                   fmt::format("{} is a symbolic link; give the {} it stands for, {}", shown(out_),
                               single_ ? "file" : "directory", shown(real)));
  HALFQUAD_REQUIRE(overwrite == Overwrite::kYes, kUsage,
                   shown(out_) + " exists; choose another name or pass --overwrite to replace it");
  if (single_) return;
  HALFQUAD_REQUIRE(looks_like_model(fs_.list(out_)), kUsage,
                   fmt::format("{} holds other things than a model and will not be replaced; remove it yourself or "
                               "choose another name",
                               shown(out_)));
}

/// Whether `path`, a sibling of OUT or OUT, is a directory itself and no link to one elsewhere.
bool OutputDirectory::is_own_directory(const Path& path) const {
  return fs_.kind(path) == FileKind::kDirectory && fs_.canonical(path) == fs_.canonical(parent_) / path.filename();
}

bool OutputDirectory::is_resumable() const {
  return fs_.kind(partial_ / kPrivateFolder / kJobDescription) == FileKind::kFile && is_own_directory(partial_);
}

/// Whether a run put OUT under its name and died before its last step.
bool OutputDirectory::died_after_commit() const {
  if (single_) return false;
  return fs_.kind(out_ / kPrivateFolder) == FileKind::kDirectory && is_own_directory(out_);
}

/// Ends what a run began that died in commit(), from the moment on when it first renamed anything.
void OutputDirectory::recover() {
  if (single_) {  // a partial directory that its file has left has nothing to be continued
    const bool done = fs_.kind(out_) == FileKind::kFile && fs_.kind(partial_) == FileKind::kDirectory &&
                      fs_.kind(partial_ / single_->name) == FileKind::kMissing;
    if (done) discard_partial();
    return;
  }
  if (died_after_commit()) {
    if (!is_resumable()) discard_partial();  // the old OUT, which got this name by the exchange
    fs_.remove_all(out_ / kPrivateFolder);
  }
  if (fs_.kind(replaced_) != FileKind::kDirectory) return;
  if (fs_.kind(out_) == FileKind::kMissing) {
    if (fs_.kind(partial_) != FileKind::kDirectory) return;  // not that state: the name belongs to somebody else
    fs_.rename(replaced_, out_);
    fs_.sync_directory(parent_);
    return;
  }
  HALFQUAD_REQUIRE(
      looks_like_model(fs_.list(replaced_)), kUsage,
      fmt::format("{} is in the way and holds other things than a model; remove or rename it", shown(replaced_)));
  fs_.remove_all(replaced_);
}

Path OutputDirectory::path_of(const std::string& name) const { return partial_ / name; }

Path OutputDirectory::make_private_folder() {
  const Path folder = partial_ / kPrivateFolder;
  fs_.create_directory(folder);
  fs_.sync_directory(partial_);
  fs_.sync_directory(parent_);
  return folder;
}

void OutputDirectory::discard() {
  discard_partial();
  unlock();
}

/// The job description goes first, so that nobody continues from what is left when this is cut short.
void OutputDirectory::discard_partial() {
  if (is_own_directory(partial_)) fs_.remove_all(partial_ / kPrivateFolder / kJobDescription);
  fs_.remove_all(partial_);
}

void OutputDirectory::commit() {
  fs_.sync_directory(partial_);
  if (single_) {
    commit_file();
  } else if (replace_) {
    replace_old();
  } else {
    fs_.rename(partial_, out_);
    end_commit();
  }
  unlock();
}

/// The file last: once it has its name everything is there. A file of that name is replaced in the same step.
void OutputDirectory::commit_file() {
  if (fs_.kind(partial_ / single_->besides) == FileKind::kFile) {
    fs_.rename(partial_ / single_->besides, with_suffix(out_, "." + single_->besides));
  }
  fs_.rename(partial_ / single_->name, out_);
  fs_.sync_directory(parent_);
  discard_partial();
}

void OutputDirectory::replace_old() {
  if (fs_.exchange(partial_, out_)) {
    end_commit();
    fs_.remove_all(partial_);  // the old one, which now bears this name
    return;
  }
  fs_.rename(out_, replaced_);
  try {
    fs_.rename(partial_, out_);
  } catch (const Error&) {
    fs_.rename(replaced_, out_);
    throw;
  }
  end_commit();
  fs_.remove_all(replaced_);
}

/// Only once the new name is durable may what a rerun would continue from go.
void OutputDirectory::end_commit() {
  fs_.sync_directory(parent_);
  fs_.remove_all(out_ / kPrivateFolder);
}

/// Removes the lock file while the lock is still held, so that nobody's newer one is removed.
void OutputDirectory::unlock() {
  try {
    fs_.remove_all(lock_path_);
  } catch (const Error&) {
    // A lock file left behind is harmless: the next run takes it over.
  }
  lock_.reset();
}

}  // namespace halfquad
