#include "io/gguf_files.h"

#include <algorithm>
#include <charconv>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <fmt/format.h>
#include <xxhash.h>

#include "io/aligned_scratch.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using Path = std::filesystem::path;

constexpr std::string_view kExtension = ".gguf";
constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kSplitPrefix = "split.";
constexpr std::string_view kNumber = "split.no", kCount = "split.count", kTensors = "split.tensors.count";
constexpr std::string_view kArchitecture = "general.architecture";
constexpr std::size_t kDigestBytes = std::size_t{1} << 20U;

std::string shown(const Path& path) { return quoted(path.string()); }

/// What the name "<prefix>-00002-of-00003.gguf" says.
struct PartName {
  std::string prefix;
  std::uint64_t number = 0;  ///< From 1 on.
  std::uint64_t count = 0;

  [[nodiscard]] std::string of(std::uint64_t part) const {
    return fmt::format("{}-{:05}-of-{:05}{}", prefix, part, count, kExtension);
  }
};

std::optional<PartName> parse_part_name(std::string_view name) {
  constexpr std::size_t kDigits = 5;
  constexpr std::string_view kOf = "-of-";
  constexpr std::size_t kTail = 1 + kDigits + kOf.size() + kDigits;
  if (!name.ends_with(kExtension)) return std::nullopt;
  name.remove_suffix(kExtension.size());
  if (name.size() <= kTail) return std::nullopt;
  const std::string_view tail = name.substr(name.size() - kTail);
  const auto number = [&](std::size_t at, std::uint64_t& value) {
    const std::string_view digits = tail.substr(at, kDigits);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  PartName part;
  part.prefix = name.substr(0, name.size() - kTail);
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf || !number(1, part.number) ||
      !number(1 + kDigits + kOf.size(), part.count)) {
    return std::nullopt;
  }
  return part;
}

/// A key with a whole number of at least 0; nothing when it is absent.
std::optional<std::uint64_t> whole_number(const GgufHeader& header, std::string_view key, const Path& path) {
  const GgufValue* value = header.find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& held) -> std::uint64_t {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          if (std::in_range<std::uint64_t>(held)) return static_cast<std::uint64_t>(held);
        }
        throw Error(ErrorCode::kBadInput, fmt::format("{}: {} is no whole number", shown(path), key));
      },
      *value);
}

/// Reads headers one by one, each with what identifies its file.
class FilesReader {
 public:
  explicit FilesReader(FileSystem& fs) : fs_(fs) {}

  const GgufHeader& add(const Path& path) {
    const std::unique_ptr<ReadFile> file = fs_.open_read(path, ReadMode::kBuffered);
    out_.headers.push_back(read_gguf_header(*file, path.string()));
    const std::uint64_t header_bytes = std::min(out_.headers.back().data_start, file->size());
    out_.files.push_back({path.filename().string(), path, file->size(), digest(*file, header_bytes)});
    return out_.headers.back();
  }

  [[nodiscard]] const GgufHeader& first() const { return out_.headers.front(); }
  [[nodiscard]] GgufFiles take() && { return std::move(out_); }

 private:
  static std::uint64_t digest(ReadFile& file, std::uint64_t bytes) {
    const AlignedScratch scratch(kDigestBytes);
    const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
    HALFQUAD_REQUIRE(state != nullptr, kOutOfMemory, "no memory for a checksum");
    XXH3_64bits_reset(state.get());
    for (std::uint64_t at = 0; at < bytes; at += kDigestBytes) {
      const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(kDigestBytes, bytes - at));
      const std::span<const std::byte> data = file.read(at, piece, scratch.bytes());
      XXH3_64bits_update(state.get(), data.data(), data.size());
    }
    return XXH3_64bits_digest(state.get());
  }

  FileSystem& fs_;
  GgufFiles out_;
};

/// Whether a part that is not the first says of itself that it is of another model.
bool is_foreign(const GgufHeader& part, const GgufHeader& first) {
  const GgufValue* architecture = part.find(kArchitecture);
  const GgufValue* wanted = first.find(kArchitecture);
  return architecture != nullptr && wanted != nullptr && *architecture != *wanted;
}

void check_part(const GgufHeader& header, const Path& path, std::uint64_t index, std::uint64_t count,
                std::optional<std::uint64_t> tensors, const GgufHeader& first) {
  const auto require = [&](std::string_view key, std::optional<std::uint64_t> wanted) {
    const std::optional<std::uint64_t> found = whole_number(header, key, path);
    const auto text = [](std::optional<std::uint64_t> value) { return value ? fmt::format("{}", *value) : "absent"; };
    HALFQUAD_REQUIRE(found == wanted, kBadInput,
                     fmt::format("{}: {} is {} instead of {}: it is not this part of the model that the parts beside "
                                 "it are of; download or copy them again",
                                 shown(path), key, text(found), text(wanted)));
  };
  require(kNumber, index);
  require(kCount, count);
  require(kTensors, tensors);
  HALFQUAD_REQUIRE(
      !is_foreign(header, first), kBadInput,
      fmt::format("{} is a part of another model: its {} is not that of the first part", shown(path), kArchitecture));
}

GgufFiles open_parts(FileSystem& fs, const Path& folder, const PartName& name) {
  FilesReader reader(fs);
  std::optional<std::uint64_t> wanted;  // tensors of the whole model
  std::uint64_t found = 0;
  std::set<std::string, std::less<>> names;
  for (std::uint64_t number = 1; number <= name.count; ++number) {
    const Path path = folder / name.of(number);
    HALFQUAD_REQUIRE(fs.kind(path) == FileKind::kFile, kBadInput,
                     fmt::format("{} is missing: the model is split into {} files; download or copy all of them",
                                 shown(path), name.count));
    const GgufHeader& header = reader.add(path);
    if (number == 1) wanted = whole_number(header, kTensors, path);
    check_part(header, path, number - 1, name.count, wanted, reader.first());
    found += header.tensors.size();
    for (const GgufTensor& tensor : header.tensors) {
      HALFQUAD_REQUIRE(
          names.insert(tensor.name).second, kBadInput,
          fmt::format("{}: tensor {} is in another part of the model too", shown(path), quoted(tensor.name)));
    }
  }
  HALFQUAD_REQUIRE(!wanted || *wanted == found, kBadInput,
                   fmt::format("{}: {} is {}, but the {} parts hold {} tensors", shown(folder / name.of(1)), kTensors,
                               *wanted, name.count, found));
  return std::move(reader).take();
}

bool begins_as_gguf(FileSystem& fs, const Path& path) {
  const std::unique_ptr<ReadFile> file = fs.open_read(path, ReadMode::kBuffered);
  if (file->size() < kMagic.size()) return false;
  const AlignedScratch scratch(kMagic.size());
  const std::span<const std::byte> start = file->read(0, kMagic.size(), scratch.bytes());
  return std::string_view(reinterpret_cast<const char*>(start.data()), start.size()) == kMagic;
}

bool is_other_weights(std::string_view name) {
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") ||
         (name.starts_with("pytorch_model") && (name.ends_with(".bin") || name.ends_with(".bin.index.json")));
}

std::optional<Path> find_in_directory(FileSystem& fs, const Path& directory) {
  std::vector<std::string> models;  // of a split one, its first part
  for (const std::string& name : fs.list(directory)) {
    if (is_other_weights(name)) return std::nullopt;
    if (!name.ends_with(kExtension) || name.starts_with('.')) continue;
    const std::optional<PartName> part = parse_part_name(name);
    const std::string model = part ? part->of(1) : name;
    if (std::ranges::find(models, model) == models.end()) models.push_back(model);
  }
  if (models.empty()) return std::nullopt;
  HALFQUAD_REQUIRE(models.size() == 1, kBadInput,
                   fmt::format("{} holds {} GGUF models, such as {} and {}; give one of these files", shown(directory),
                               models.size(), quoted(models[0]), quoted(models[1])));
  return directory / models[0];
}

}  // namespace

GgufHeader GgufFiles::model() const {
  GgufHeader all = headers.front();
  std::erase_if(all.keys, [](const GgufKey& key) { return key.name.starts_with(kSplitPrefix); });
  for (std::size_t i = 1; i < headers.size(); ++i) {
    all.tensors.insert(all.tensors.end(), headers[i].tensors.begin(), headers[i].tensors.end());
  }
  return all;
}

std::vector<GgufFiles::Place> GgufFiles::places() const {
  std::vector<Place> places;
  for (std::size_t i = 0; i < headers.size(); ++i) {
    for (const GgufTensor& tensor : headers[i].tensors) {
      places.push_back({static_cast<int>(i), headers[i].data_start + tensor.offset});
    }
  }
  return places;
}

std::optional<Path> find_gguf_model(FileSystem& fs, const Path& path) {
  const FileKind kind = fs.kind(path);
  if (kind == FileKind::kDirectory) return find_in_directory(fs, path);
  if (kind == FileKind::kFile && (path.extension() == kExtension || begins_as_gguf(fs, path))) return path;
  return std::nullopt;
}

GgufFiles open_gguf_files(FileSystem& fs, const Path& path) {
  const std::optional<PartName> name = parse_part_name(path.filename().string());
  if (name && name->number >= 1 && name->number <= name->count && name->count > 1) {
    return open_parts(fs, path.parent_path(), *name);
  }
  FilesReader reader(fs);
  const GgufHeader& header = reader.add(path);
  const std::optional<std::uint64_t> count = whole_number(header, kCount, path);
  HALFQUAD_REQUIRE(count.value_or(1) <= 1, kBadInput,
                   fmt::format("{} is one of {} parts of a model by its {}, but its name does not end in "
                               "\"-00001-of-{:05}.gguf\", so the others cannot be found",
                               shown(path), *count, kCount, *count));
  return std::move(reader).take();
}

}  // namespace halfquad
