#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/synth_model.h"

namespace halfquad {
namespace {

/// What a file begins with, and how long it is.
struct Content {
  std::string start;
  std::uint64_t size = 0;
};

class PresetFile final : public ReadFile {
 public:
  PresetFile(std::string name, Content content) : name_(std::move(name)), content_(std::move(content)) {}
  std::uint64_t size() const override { return content_.size; }
  std::span<std::byte> read(std::uint64_t offset, std::size_t bytes, std::span<std::byte> scratch) override {
    HALFQUAD_REQUIRE(
        offset <= content_.start.size() && bytes <= content_.start.size() - offset, kUsage,
        quoted(name_) + " is a preset without weights; make a checkpoint with halfquad synth to read them");
    std::memcpy(scratch.data(), content_.start.data() + offset, bytes);
    return scratch.first(bytes);
  }

 private:
  std::string name_;
  Content content_;
};

class PresetFiles final : public FileSystem {
 public:
  PresetFiles(FileSystem& beneath, const SynthModel& model) : beneath_(beneath) {
    add_text("config.json", pretty_json(model.config));
    if (model.index) add_text("model.safetensors.index.json", pretty_json(*model.index));
    for (const SynthFile& file : model.files) {
      Content content{serialize_safetensors_header(file.tensors, {{"format", "pt"}}), 0};
      content.size = content.start.size() + file.tensors.back().end;
      files_[file.name] = std::move(content);
    }
  }

  std::unique_ptr<ReadFile> open_read(const Path& path, ReadMode mode) override {
    const Content* content = find(path);
    if (content == nullptr) return beneath_.open_read(path, mode);
    return std::make_unique<PresetFile>(path.filename().string(), *content);
  }
  FileKind kind(const Path& path) override {
    if (path == kPresetDirectory) return FileKind::kDirectory;
    return find(path) != nullptr ? FileKind::kFile : beneath_.kind(path);
  }
  Path canonical(const Path& path) override {
    return path == kPresetDirectory || find(path) != nullptr ? path : beneath_.canonical(path);
  }
  std::vector<std::string> list(const Path& directory) override {
    if (directory != kPresetDirectory) return beneath_.list(directory);
    std::vector<std::string> names;
    for (const auto& file : files_) names.push_back(file.first);
    return names;
  }
  std::uint64_t free_bytes(const Path& path) override { return beneath_.free_bytes(path); }

  std::unique_ptr<WriteFile> create(const Path& path, WriteMode) override { refuse(path); }
  std::unique_ptr<WriteFile> open_write(const Path& path, WriteMode) override { refuse(path); }
  void create_directory(const Path& path) override { refuse(path); }
  void rename(const Path& from, const Path&) override { refuse(from); }
  bool exchange(const Path& a, const Path&) override { refuse(a); }
  void remove_all(const Path& path) override { refuse(path); }
  void sync_directory(const Path& path) override { refuse(path); }
  std::unique_ptr<FileLock> try_lock(const Path& path) override { refuse(path); }

 private:
  void add_text(const std::string& name, std::string text) {
    const std::uint64_t size = text.size();
    files_[name] = {std::move(text), size};
  }
  [[nodiscard]] const Content* find(const Path& path) const {
    if (path.parent_path() != kPresetDirectory) return nullptr;
    const auto found = files_.find(path.filename().string());
    return found == files_.end() ? nullptr : &found->second;
  }
  [[noreturn]] static void refuse(const Path& path) {
    throw Error(ErrorCode::kInternal, quoted(path.string()) + " was to be changed by a command that only plans");
  }

  FileSystem& beneath_;
  std::map<std::string, Content> files_;
};

}  // namespace

std::unique_ptr<FileSystem> preset_files(FileSystem& beneath, const SynthModel& model) {
  return std::make_unique<PresetFiles>(beneath, model);
}

}  // namespace halfquad
