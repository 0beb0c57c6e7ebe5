#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"

namespace halfquad::test {

/// What happens to the calls after the one that fails.
enum class After {
  kWorks,  ///< Only that call fails: a passing fault.
  kDead,   ///< All later ones fail too and change nothing, as if the process or the machine had died there.
};

/// When a FaultyFileSystem fails, and what it saw. Shared by the file system and every file it opened; thread-safe.
class FaultPlan {
 public:
  static constexpr std::uint64_t kNever = 0;

  /// The `fail_at`-th call (from 1) throws Error(kIo, "injected fault ..."); kNever only counts.
  explicit FaultPlan(std::uint64_t fail_at = kNever, After after = After::kWorks);

  /// Called before every operation with its name and path.
  void step(std::string_view operation, const FileSystem::Path& path);

  [[nodiscard]] std::uint64_t calls() const;
  /// Whether the fault was reached.
  [[nodiscard]] bool fired() const;
  /// "write /tmp/x": the call that failed, or nothing.
  [[nodiscard]] std::string failed_call() const;
  /// Every call so far, in order, as "operation path".
  [[nodiscard]] std::vector<std::string> log() const;

 private:
  const std::uint64_t fail_at_;
  const After after_;
  mutable std::mutex mutex_;
  std::vector<std::string> log_;
  std::string failed_call_;
};

/// A file system whose k-th call fails, whatever it is: every method of the file system, of every file and of closing
/// them counts as one call. Destructors never fail. The wrapped file system must outlive it.
class FaultyFileSystem final : public FileSystem {
 public:
  FaultyFileSystem(FileSystem& wrapped, std::shared_ptr<FaultPlan> plan);

  [[nodiscard]] std::unique_ptr<ReadFile> open_read(const Path& path, ReadMode mode) override;
  [[nodiscard]] std::unique_ptr<WriteFile> create(const Path& path, WriteMode mode) override;
  [[nodiscard]] std::unique_ptr<WriteFile> open_write(const Path& path, WriteMode mode) override;
  [[nodiscard]] FileKind kind(const Path& path) override;
  [[nodiscard]] Path canonical(const Path& path) override;
  [[nodiscard]] std::vector<std::string> list(const Path& directory) override;
  void create_directory(const Path& path) override;
  void rename(const Path& from, const Path& to) override;
  [[nodiscard]] bool exchange(const Path& a, const Path& b) override;
  void remove_all(const Path& path) override;
  void sync_directory(const Path& path) override;
  [[nodiscard]] std::unique_ptr<FileLock> try_lock(const Path& path) override;
  [[nodiscard]] std::uint64_t free_bytes(const Path& path) override;

  /// exchange() returns false from now on: a file system without it.
  void refuse_exchange() noexcept { can_exchange_ = false; }

 private:
  FileSystem& wrapped_;
  std::shared_ptr<FaultPlan> plan_;
  bool can_exchange_ = true;
};

}  // namespace halfquad::test
