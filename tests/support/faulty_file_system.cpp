#include "tests/support/faulty_file_system.h"

#include <utility>

#include <fmt/format.h>

#include "runtime/error.h"

namespace halfquad::test {
namespace {

class FaultyReadFile final : public ReadFile {
 public:
  FaultyReadFile(std::unique_ptr<ReadFile> wrapped, FileSystem::Path path, std::shared_ptr<FaultPlan> plan)
      : wrapped_(std::move(wrapped)), path_(std::move(path)), plan_(std::move(plan)) {}

  [[nodiscard]] std::uint64_t size() const override { return wrapped_->size(); }

  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    plan_->step("read", path_);
    return wrapped_->read(offset, bytes, scratch);
  }

 private:
  std::unique_ptr<ReadFile> wrapped_;
  FileSystem::Path path_;
  std::shared_ptr<FaultPlan> plan_;
};

class FaultyWriteFile final : public WriteFile {
 public:
  FaultyWriteFile(std::unique_ptr<WriteFile> wrapped, FileSystem::Path path, std::shared_ptr<FaultPlan> plan)
      : wrapped_(std::move(wrapped)), path_(std::move(path)), plan_(std::move(plan)) {}

  void allocate(std::uint64_t size) override {
    plan_->step("allocate", path_);
    wrapped_->allocate(size);
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    plan_->step("write", path_);
    wrapped_->write(offset, data);
  }
  void start_writeback(std::uint64_t offset, std::uint64_t bytes) override {
    wrapped_->start_writeback(offset, bytes);  // a hint: it cannot fail
  }
  void sync() override {
    plan_->step("sync", path_);
    wrapped_->sync();
  }
  void close() override {
    plan_->step("close", path_);
    wrapped_->close();
  }

 private:
  std::unique_ptr<WriteFile> wrapped_;
  FileSystem::Path path_;
  std::shared_ptr<FaultPlan> plan_;
};

}  // namespace

FaultPlan::FaultPlan(std::uint64_t fail_at, After after) : fail_at_(fail_at), after_(after) {}

void FaultPlan::step(std::string_view operation, const FileSystem::Path& path) {
  const std::lock_guard lock(mutex_);
  log_.push_back(fmt::format("{} {}", operation, path.string()));
  const std::uint64_t call = log_.size();
  const bool dead = after_ == After::kDead && !failed_call_.empty();
  if (call != fail_at_ && !dead) return;
  if (failed_call_.empty()) failed_call_ = log_.back();
  throw Error(ErrorCode::kIo, fmt::format("injected fault at call {}: {}", call, log_.back()));
}

std::uint64_t FaultPlan::calls() const {
  const std::lock_guard lock(mutex_);
  return log_.size();
}

bool FaultPlan::fired() const { return !failed_call().empty(); }

std::string FaultPlan::failed_call() const {
  const std::lock_guard lock(mutex_);
  return failed_call_;
}

std::vector<std::string> FaultPlan::log() const {
  const std::lock_guard lock(mutex_);
  return log_;
}

FaultyFileSystem::FaultyFileSystem(FileSystem& wrapped, std::shared_ptr<FaultPlan> plan)
    : wrapped_(wrapped), plan_(std::move(plan)) {}

std::unique_ptr<ReadFile> FaultyFileSystem::open_read(const Path& path, ReadMode mode) {
  plan_->step("open_read", path);
  return std::make_unique<FaultyReadFile>(wrapped_.open_read(path, mode), path, plan_);
}

std::unique_ptr<WriteFile> FaultyFileSystem::create(const Path& path, WriteMode mode) {
  plan_->step("create", path);
  return std::make_unique<FaultyWriteFile>(wrapped_.create(path, mode), path, plan_);
}

std::unique_ptr<WriteFile> FaultyFileSystem::open_write(const Path& path, WriteMode mode) {
  plan_->step("open_write", path);
  return std::make_unique<FaultyWriteFile>(wrapped_.open_write(path, mode), path, plan_);
}

FileKind FaultyFileSystem::kind(const Path& path) {
  plan_->step("kind", path);
  return wrapped_.kind(path);
}

FileSystem::Path FaultyFileSystem::canonical(const Path& path) {
  plan_->step("canonical", path);
  return wrapped_.canonical(path);
}

std::vector<std::string> FaultyFileSystem::list(const Path& directory) {
  plan_->step("list", directory);
  return wrapped_.list(directory);
}

void FaultyFileSystem::create_directory(const Path& path) {
  plan_->step("create_directory", path);
  wrapped_.create_directory(path);
}

void FaultyFileSystem::rename(const Path& from, const Path& to) {
  plan_->step("rename", from);
  wrapped_.rename(from, to);
}

bool FaultyFileSystem::exchange(const Path& a, const Path& b) {
  plan_->step("exchange", a);
  return can_exchange_ && wrapped_.exchange(a, b);
}

void FaultyFileSystem::remove_all(const Path& path) {
  plan_->step("remove_all", path);
  wrapped_.remove_all(path);
}

void FaultyFileSystem::sync_directory(const Path& path) {
  plan_->step("sync_directory", path);
  wrapped_.sync_directory(path);
}

std::unique_ptr<FileLock> FaultyFileSystem::try_lock(const Path& path) {
  plan_->step("try_lock", path);
  return wrapped_.try_lock(path);
}

std::uint64_t FaultyFileSystem::free_bytes(const Path& path) {
  plan_->step("free_bytes", path);
  return wrapped_.free_bytes(path);
}

}  // namespace halfquad::test
