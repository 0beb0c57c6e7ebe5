#pragma once

#include <filesystem>
#include <string>

namespace halfquad::test {

/// A new directory below TMPDIR (or /tmp), removed with all it holds when destroyed. Its path is canonical.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

/// Creates or truncates `path`.
void put_file(const std::filesystem::path& path, const std::string& bytes);
/// All of `path`; throws std::runtime_error when it cannot be read.
[[nodiscard]] std::string get_file(const std::filesystem::path& path);

}  // namespace halfquad::test
