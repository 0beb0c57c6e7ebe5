#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "io/file_system.h"

namespace halfquad {

enum class Overwrite { kNo, kYes };

/// A result directory that exists under its final name only when it is complete: files are made in `OUT.partial/`, and
/// commit() syncs and renames. While it lives, a lock keeps a second process away from the same OUT.
class OutputDirectory {
 public:
  /// Refuses (kUsage) an existing OUT unless `overwrite`, an OUT equal to or inside `source` or around it, and
  /// an OUT that another process is writing. Even with `overwrite` only a directory that looks like a model's is
  /// replaced. Discards what an earlier, dead run left in OUT.partial, and puts OUT back when that run died while
  /// replacing it. An empty `source` stands for none.
  OutputDirectory(FileSystem& fs, const std::filesystem::path& out, const std::filesystem::path& source,
                  Overwrite overwrite);
  ~OutputDirectory();  ///< Leaves OUT.partial in place; removes nothing.
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  /// Where `name` is to be created.
  [[nodiscard]] std::filesystem::path path_of(const std::string& name) const;
  [[nodiscard]] const std::filesystem::path& final_path() const noexcept { return out_; }
  /// Removes OUT.partial: for a job that ended in an error which a rerun would not continue.
  void discard();
  /// Syncs the directory and puts it under its final name. An OUT that was to be overwritten disappears in the same
  /// step where the file system can exchange names, otherwise moments before.
  /// @pre every file in it has been synced and closed.
  void commit();

 private:
  void refuse_overlap(const std::filesystem::path& source) const;
  void check_target(Overwrite overwrite) const;
  void recover();
  void replace_old();
  void unlock();

  FileSystem& fs_;
  std::filesystem::path out_;
  std::filesystem::path parent_;
  std::filesystem::path partial_;
  std::filesystem::path replaced_;  ///< Where the old OUT waits when names cannot be exchanged.
  std::filesystem::path lock_path_;
  std::unique_ptr<FileLock> lock_;
  bool replace_ = false;
};

}  // namespace halfquad
