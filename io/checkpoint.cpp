#include "io/checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <xxhash.h>

#include "io/json.h"
#include "io/safetensors_header.h"
#include "io/safetensors_index.h"
#include "io/torch_file.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using Path = std::filesystem::path;

constexpr std::string_view kConfigName = "config.json";
constexpr std::string_view kSingleName = "model.safetensors";
constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr std::string_view kTorchName = "pytorch_model.bin";
constexpr std::string_view kTorchIndexName = "pytorch_model.bin.index.json";
constexpr std::string_view kSuffix = ".safetensors";
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{512} << 20;
constexpr std::uint64_t kMaxSideFileBytes = std::uint64_t{256} << 20;

std::string shown(const Path& path) { return quoted(path.string()); }

bool is_hidden(std::string_view name) { return name.starts_with('.'); }

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Whether `path`, an entry of a directory, is a regular file or a link to one; a link to nothing is refused.
bool is_regular_entry(FileSystem& fs, const Path& path) {
  const FileKind kind = fs.kind(path);
  HALFQUAD_REQUIRE(kind != FileKind::kMissing, kBadInput,
                   shown(path) + " is a symbolic link to nothing; download or copy the model again");
  return kind == FileKind::kFile;
}

bool is_side_file_name(std::string_view name) {
  constexpr std::array<std::string_view, 10> kNotAlong = {".safetensors", ".bin",  ".pt",      ".pth",  ".gguf",
                                                          ".h5",          ".onnx", ".msgpack", ".ckpt", ".index.json"};
  if (is_hidden(name) || name == kConfigName || name == "halfquad_report.json") return false;
  return std::none_of(kNotAlong.begin(), kNotAlong.end(), [&](std::string_view end) { return name.ends_with(end); });
}

std::vector<std::string> find_side_files(FileSystem& fs, const Path& directory, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  for (const std::string& name : names) {
    if (!is_side_file_name(name) || !is_regular_entry(fs, directory / name)) continue;
    if (fs.open_read(directory / name, ReadMode::kBuffered)->size() <= kMaxSideFileBytes) found.push_back(name);
  }
  return found;
}

/// What to say about a directory without any weights.
[[noreturn]] void refuse_without_weights(const Path& directory, const std::vector<std::string>& names) {
  const auto pickle = std::ranges::find_if(names, is_torch_file_name);
  const std::string advice =
      pickle != names.end()
          ? fmt::format("it holds PyTorch pickles but no {}; give one of them, such as {}, if it is a state dict",
                        kTorchName, quoted(*pickle))
      : names.empty() ? "the directory is empty"
                      : "give the directory of a Hugging Face checkpoint";
  throw Error(ErrorCode::kBadInput, fmt::format("{} holds no *.safetensors file: {}", shown(directory), advice));
}

std::vector<std::string> all_safetensors(const std::vector<std::string>& names) {
  std::vector<std::string> found;
  std::copy_if(names.begin(), names.end(), std::back_inserter(found),
               [](std::string_view name) { return name.ends_with(kSuffix) && !is_hidden(name); });
  return found;
}

}  // namespace

std::int64_t SourceTensor::elements() const noexcept {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::uint64_t SourceTensor::stored_bytes(std::uint64_t decoded) const noexcept {
  if (decoder == nullptr) return decoded;
  return static_cast<std::uint64_t>(std::llround(static_cast<double>(decoded) * decoder->stored_per_byte()));
}

Checkpoint::Checkpoint(FileSystem& fs, const Path& path) {
  switch (fs.kind(path)) {
    case FileKind::kMissing:
      throw Error(ErrorCode::kIo, shown(path) + " does not exist");
    case FileKind::kOther:
      throw Error(ErrorCode::kBadInput, shown(path) + " is neither a directory nor a regular file");
    case FileKind::kFile:
      single_file_ = true;
      directory_ = path.has_parent_path() ? path.parent_path() : Path(".");
      add_file(fs, path.filename().string());
      finish();
      return;
    case FileKind::kDirectory:
      directory_ = path;
      open_directory(fs);
      return;
  }
}

Checkpoint Checkpoint::of_parts(std::vector<SourceFile> files, bool is_single_file, std::vector<SourceTensor> tensors,
                                std::optional<boost::json::object> config) {
  Checkpoint parts;
  parts.directory_ = files.front().path.has_parent_path() ? files.front().path.parent_path() : Path(".");
  parts.single_file_ = is_single_file;
  parts.files_ = std::move(files);
  return parts.with_tensors(std::move(tensors), std::move(config));
}

Checkpoint Checkpoint::of_gguf(std::vector<SourceFile> files, bool is_single_file, std::vector<SourceTensor> tensors,
                               std::shared_ptr<const GgufHeader> header) {
  Checkpoint parts = of_parts(std::move(files), is_single_file, std::move(tensors), {});
  parts.gguf_ = std::move(header);
  return parts;
}

Checkpoint Checkpoint::with_tensors(std::vector<SourceTensor> tensors,
                                    std::optional<boost::json::object> config) const {
  Checkpoint other = *this;
  other.config_ = std::move(config);
  other.tensors_ = std::move(tensors);
  other.by_name_.clear();
  for (std::size_t i = 0; i < other.tensors_.size(); ++i) {
    const bool added = other.by_name_.emplace(other.tensors_[i].name, i).second;
    HALFQUAD_REQUIRE(added, kBadInput, "tensor " + quoted(other.tensors_[i].name) + " is there twice");
  }
  return other;
}

Checkpoint Checkpoint::beside(FileSystem& fs, const Path& folder) const {
  Checkpoint other = *this;
  if (fs.kind(folder) != FileKind::kDirectory) return other;
  other.directory_ = folder;
  other.single_file_ = false;
  other.side_files_ = find_side_files(fs, folder, fs.list(folder));
  return other;
}

void Checkpoint::open_directory(FileSystem& fs) {
  const std::vector<std::string> names = fs.list(directory_);
  if (contains(names, kConfigName) && is_regular_entry(fs, directory_ / kConfigName)) {
    const Path path = directory_ / kConfigName;
    boost::json::value value = parse_json(read_text(fs, path, kMaxConfigBytes), shown(path));
    HALFQUAD_REQUIRE(value.is_object(), kBadInput, shown(path) + ": the configuration is not a JSON object");
    config_ = std::move(value.get_object());
  }
  // The order in which transformers looks: a single file wins over an index beside it, safetensors over PyTorch's.
  const std::vector<std::string> safetensors = all_safetensors(names);
  if (contains(names, kSingleName)) {
    add_file(fs, std::string(kSingleName));
    finish();
  } else if (contains(names, kIndexName)) {
    open_index(fs, kIndexName, names);
  } else if (!safetensors.empty()) {
    for (const std::string& name : safetensors) add_file(fs, name);
    finish();
  } else if (contains(names, kTorchName)) {
    add_file(fs, std::string(kTorchName));
    finish();
  } else if (contains(names, kTorchIndexName)) {
    open_index(fs, kTorchIndexName, names);
  } else {
    refuse_without_weights(directory_, names);
  }
  side_files_ = find_side_files(fs, directory_, names);
}

void Checkpoint::open_index(FileSystem& fs, std::string_view index, std::span<const std::string> names) {
  const Path path = directory_ / index;
  const auto weight_map = parse_safetensors_index(read_text(fs, path, kMaxIndexBytes), shown(path));
  std::set<std::string> needed;
  for (const auto& [tensor, file] : weight_map) needed.insert(file);
  for (const std::string& file : needed) {
    HALFQUAD_REQUIRE(std::ranges::find(names, file) != names.end(), kBadInput,
                     fmt::format("{} names the file {}, which is missing; download or copy the model again",
                                 shown(path), quoted(file)));
    add_file(fs, file);
  }
  finish();
  check_against_index(weight_map, index);
}

void Checkpoint::add_file(FileSystem& fs, const std::string& name) {
  const Path path = directory_ / name;
  HALFQUAD_REQUIRE(is_regular_entry(fs, path), kBadInput, shown(path) + " is not a regular file");
  const std::unique_ptr<ReadFile> file = fs.open_read(path, ReadMode::kBuffered);
  files_.push_back({name, path, file->size(), 0});
  files_.back().header_digest =
      is_torch_file_name(name) ? add_torch(*file, path.string()) : add_safetensors(*file, path.string());
}

std::uint64_t Checkpoint::add_safetensors(ReadFile& file, const std::string& path) {
  const std::string json = read_safetensors_header_json(file, path);
  const std::uint64_t data_bytes = file.size() - sizeof(std::uint64_t) - json.size();
  SafetensorsHeader header = parse_safetensors_header(json, data_bytes, path);
  const int index = static_cast<int>(files_.size()) - 1;
  for (TensorEntry& entry : header.tensors) {
    const std::uint64_t bytes = entry.bytes();
    tensors_.push_back(
        {std::move(entry.name), entry.dtype, std::move(entry.shape), index, header.data_start + entry.begin, bytes});
  }
  return XXH3_64bits(json.data(), json.size());
}

std::uint64_t Checkpoint::add_torch(ReadFile& file, const std::string& path) {
  TorchFile torch = read_torch_file(file, path);
  const int index = static_cast<int>(files_.size()) - 1;
  for (TorchTensor& tensor : torch.tensors) {
    tensors_.push_back(
        {std::move(tensor.name), tensor.dtype, std::move(tensor.shape), index, tensor.offset, tensor.bytes});
  }
  return XXH3_64bits(torch.header.data(), torch.header.size());
}

void Checkpoint::finish() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto [before, is_new] = by_name_.emplace(tensors_[i].name, i);
    if (is_new) continue;
    const auto file_of = [&](std::size_t tensor) {
      return quoted(files_[static_cast<std::size_t>(tensors_[tensor].file)].name);
    };
    throw Error(
        ErrorCode::kBadInput,
        fmt::format("{}: tensor {} is in two files, {} and {}; remove the files that do not belong to the model",
                    shown(directory_), quoted(tensors_[i].name), file_of(before->second), file_of(i)));
  }
}

void Checkpoint::check_against_index(const std::map<std::string, std::string>& weight_map,
                                     std::string_view index_name) const {
  const std::string index = shown(directory_ / index_name);
  for (const auto& [name, file] : weight_map) {
    const SourceTensor* tensor = find(name);
    HALFQUAD_REQUIRE(tensor != nullptr && files_[static_cast<std::size_t>(tensor->file)].name == file, kBadInput,
                     fmt::format("{} places tensor {} in {}, which does not hold it; the index and the files are of "
                                 "different versions, download them again",
                                 index, quoted(name), quoted(file)));
  }
  for (const SourceTensor& tensor : tensors_) {
    HALFQUAD_REQUIRE(
        weight_map.contains(tensor.name), kBadInput,
        fmt::format("{} leaves out tensor {} of {}; the index and the files are of different versions, "
                    "download them again",
                    index, quoted(tensor.name), quoted(files_[static_cast<std::size_t>(tensor.file)].name)));
  }
}

const SourceTensor* Checkpoint::find(std::string_view name) const noexcept {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::uint64_t Checkpoint::tensor_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const SourceTensor& tensor : tensors_) bytes += tensor.bytes;
  return bytes;
}

}  // namespace halfquad
