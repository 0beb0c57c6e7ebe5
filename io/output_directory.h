#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "io/file_system.h"

namespace halfquad {

enum class Overwrite { kNo, kYes };
/// What becomes of the OUT.partial of a run that died.
enum class Leftover { kDiscard, kKeep };

/// Folder inside OUT.partial that holds what a rerun needs to continue (io/FORMAT.md); the finished output lacks it.
inline constexpr std::string_view kPrivateFolder = ".halfquad";
/// File in kPrivateFolder without which there is nothing to continue.
inline constexpr std::string_view kJobDescription = "job.json";

/// OUT.partial, where the files of `out` are made: for ranks that write there while another holds the OutputDirectory.
[[nodiscard]] std::filesystem::path partial_path(const std::filesystem::path& out);

/// A result directory that exists under its final name only when it is complete: files are made in `OUT.partial/`, and
/// commit() syncs and renames. While it lives, a lock keeps a second process away from the same OUT.
class OutputDirectory {
 public:
  /// Refuses (kUsage) an existing OUT unless `overwrite`, an OUT equal to or inside `source` or around it, and
  /// an OUT that another process is writing. Even with `overwrite` only a directory that looks like a model's is
  /// replaced. Ends what an earlier run began that died while it committed, and puts OUT back when it died while
  /// replacing it. An OUT.partial is kept when `leftover` says so and it holds a job description, otherwise discarded.
  /// An empty `source` stands for none.
  OutputDirectory(FileSystem& fs, const std::filesystem::path& out, const std::filesystem::path& source,
                  Overwrite overwrite, Leftover leftover = Leftover::kDiscard);
  /// Likewise of an OUT that is to be the file of this name, made like the others in OUT.partial/; see commit_file().
  struct SingleFile {
    std::string name;     ///< "model.gguf"
    std::string besides;  ///< Of a second file, which gets the name OUT.<besides>; "halfquad_report.json".
  };
  OutputDirectory(FileSystem& fs, const std::filesystem::path& out, const std::filesystem::path& source,
                  Overwrite overwrite, Leftover leftover, std::optional<SingleFile> single);
  ~OutputDirectory();  ///< Leaves OUT.partial in place; removes nothing.
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  /// Where `name` is to be created.
  [[nodiscard]] std::filesystem::path path_of(const std::string& name) const;
  /// Whether OUT.partial and the job description in it are an earlier run's.
  [[nodiscard]] bool resumed() const noexcept { return resumed_; }
  /// Creates kPrivateFolder in OUT.partial if it is missing, durably, and gives its path.
  [[nodiscard]] std::filesystem::path make_private_folder();
  [[nodiscard]] const std::filesystem::path& final_path() const noexcept { return out_; }
  /// Removes OUT.partial: for a job that ended in an error which a rerun would not continue.
  void discard();
  /// Syncs the directory, puts it (of a SingleFile: these files) under its final name and removes kPrivateFolder from
  /// it. Whoever dies in between leaves either what a rerun continues or the complete output, whose kPrivateFolder the
  /// next run removes. An OUT that was to be overwritten disappears in the same step where the file system can exchange
  /// names, otherwise moments before.
  /// @pre every file in it has been synced and closed.
  void commit();

 private:
  void commit_file();
  void refuse_overlap(const std::filesystem::path& source) const;
  void check_target(Overwrite overwrite) const;
  [[nodiscard]] bool is_own_directory(const std::filesystem::path& path) const;
  [[nodiscard]] bool is_resumable() const;
  [[nodiscard]] bool died_after_commit() const;
  void recover();
  void discard_partial();
  void replace_old();
  void end_commit();
  void unlock();

  FileSystem& fs_;
  std::filesystem::path out_;
  std::filesystem::path parent_;
  std::filesystem::path partial_;
  std::filesystem::path replaced_;  ///< Where the old OUT waits when names cannot be exchanged.
  std::filesystem::path lock_path_;
  std::unique_ptr<FileLock> lock_;
  bool replace_ = false;
  bool resumed_ = false;
  std::optional<SingleFile> single_;
};

}  // namespace halfquad
