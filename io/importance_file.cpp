#include "io/importance_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "io/aligned_scratch.h"
#include "io/block_digest.h"
#include "io/gguf.h"
#include "io/safetensors_header.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kDigestBlock = 8 << 20;
constexpr std::string_view kSums = ".in_sum2";
constexpr std::string_view kCounts = ".counts";
constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kCut = "the file is cut short or damaged; download or copy it again";
/// Of the older binary form: bytes of a name, far above ggml's 63, and the least that an entry takes.
constexpr std::int32_t kLongestName = 1024;
constexpr std::uint64_t kLeastEntry = 4 + 1 + 4 + 4 + 4;

/// Walks over the older binary form.
class LegacyCursor {
 public:
  LegacyCursor(ReadFile& file, const std::string& name) : file_(file), name_(name), size_(file.size()) {}

  [[nodiscard]] std::uint64_t position() const noexcept { return at_; }
  [[nodiscard]] std::uint64_t remaining() const noexcept { return size_ - at_; }

  std::string text(std::uint64_t bytes, std::string_view what) {
    require(bytes, what);
    const AlignedScratch scratch(bytes);
    const std::span<const std::byte> read = file_.read(at_, bytes, scratch.bytes());
    at_ += bytes;
    return {reinterpret_cast<const char*>(read.data()), read.size()};
  }
  std::int32_t number(std::string_view what) {
    static_assert(std::endian::native == std::endian::little);
    std::int32_t value = 0;
    std::memcpy(&value, text(sizeof value, what).data(), sizeof value);
    return value;
  }
  void skip(std::uint64_t bytes, std::string_view what) {
    require(bytes, what);
    at_ += bytes;
  }

 private:
  void require(std::uint64_t bytes, std::string_view what) const {
    HALFQUAD_REQUIRE(bytes <= remaining(), kBadInput,
                     fmt::format("{}: {} takes {} bytes at byte {}, but only {} follow: {}", quoted(name_), what, bytes,
                                 at_, remaining(), kCut));
  }

  ReadFile& file_;
  const std::string& name_;
  std::uint64_t size_, at_ = 0;
};

bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

std::int64_t elements_of(const GgufTensor& tensor) { return static_cast<std::int64_t>(tensor.bytes() / sizeof(float)); }

/// The two tensors of an entry.
struct SumsAndCounts {
  const GgufTensor* sums = nullptr;
  const GgufTensor* counts = nullptr;
};

}  // namespace

ImportanceFile ImportanceFile::open(FileSystem& fs, const std::filesystem::path& path) {
  HALFQUAD_REQUIRE(fs.kind(path) == FileKind::kFile, kBadInput,
                   fmt::format("{}: there is no such importance file", quoted(path.string())));
  return parse(fs.open_read(path, ReadMode::kBuffered), path.string());
}

ImportanceFile ImportanceFile::parse(std::unique_ptr<ReadFile> file, std::string name) {
  ImportanceFile out(std::move(file), std::move(name));
  constexpr std::uint64_t kMagic = 9;  // the length of a safetensors header and its first byte
  const std::uint64_t size = out.file_->size();
  if (size < kMagic) out.refuse(fmt::format("{} bytes are too few for an importance file", size));
  const std::vector<std::byte> begin = out.bytes_at(0, kMagic);
  const std::string_view text(reinterpret_cast<const char*>(begin.data()), begin.size());
  if (text.starts_with("version ")) {
    out.refuse("this is a Git LFS pointer and not the file itself; run \"git lfs pull\" in its folder");
  }
  if (text.starts_with("GGUF")) {
    out.parse_gguf();
  } else if (text.back() == '{') {
    out.parse_safetensors();
  } else {
    out.parse_legacy();
  }
  if (out.entries_.empty()) out.refuse("it holds no importance of any layer");
  return out;
}

std::string_view ImportanceFile::kind_name() const noexcept {
  switch (kind_) {
    case Kind::kImatrixGguf:
      return "imatrix (GGUF)";
    case Kind::kImatrixLegacy:
      return "imatrix";
    case Kind::kSafetensors:
      return "safetensors";
  }
  return "";
}

void ImportanceFile::refuse(const std::string& reason) const {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", quoted(name_), reason));
}

std::vector<std::byte> ImportanceFile::bytes_at(std::uint64_t offset, std::uint64_t count) const {
  const AlignedScratch scratch(count);
  const std::span<const std::byte> read = file_->read(offset, count, scratch.bytes());
  return {read.begin(), read.end()};
}

std::vector<std::byte> ImportanceFile::read(const ImportanceEntry& entry, std::int64_t first,
                                            std::int64_t count) const {
  const auto size = static_cast<std::uint64_t>(bytes_of(entry.dtype));
  return bytes_at(entry.offset + static_cast<std::uint64_t>(first) * size, static_cast<std::uint64_t>(count) * size);
}

std::string ImportanceFile::digest() const {
  const std::uint64_t size = file_->size();
  BlockDigest digest(BlockLayout{.total_bytes = size, .run_bytes = size, .block_bytes = kDigestBlock});
  const AlignedScratch scratch(std::min(size, kDigestBlock));
  for (std::uint64_t at = 0; at < size; at += kDigestBlock) {
    digest.add(at, file_->read(at, std::min(size - at, kDigestBlock), scratch.bytes()));
  }
  return digest.hex();
}

void ImportanceFile::add(ImportanceEntry entry) {
  std::string_view name = entry.name;
  static_cast<void>(take_suffix(name, kWeight));
  if (name.empty()) refuse(fmt::format("an entry is called {}", quoted(entry.name)));
  entry.name = std::string(name);
  if (!names_.insert(entry.name).second) refuse(fmt::format("{} is there twice", quoted(entry.name)));
  entries_.push_back(std::move(entry));
}

void ImportanceFile::parse_gguf() {
  kind_ = Kind::kImatrixGguf;
  const GgufHeader header = read_gguf_header(*file_, name_);
  std::map<std::string, SumsAndCounts, std::less<>> found;
  for (const GgufTensor& tensor : header.tensors) {
    std::string_view name = tensor.name;
    if (take_suffix(name, kSums)) {
      found[std::string(name)].sums = &tensor;
    } else if (take_suffix(name, kCounts)) {
      found[std::string(name)].counts = &tensor;
    }
  }
  if (found.empty()) {
    refuse("this GGUF file is no imatrix: it has no tensor called \"<layer>.in_sum2\"");
  }
  for (const auto& [name, pair] : found) {
    if (pair.sums == nullptr) refuse(fmt::format("{} has counts and no sums: {}", quoted(name), kCut));
    for (const GgufTensor* tensor : {pair.sums, pair.counts}) {
      if (tensor == nullptr || tensor->type == static_cast<std::uint32_t>(GgmlTypeId::kF32)) continue;
      refuse(fmt::format("tensor {} is {} instead of F32", quoted(tensor->name), find_ggml_type(tensor->type)->name));
    }
    ImportanceEntry entry{
        .name = name, .offset = header.data_start + pair.sums->offset, .values = elements_of(*pair.sums)};
    const std::int64_t row = pair.sums->dims.empty() ? 1 : pair.sums->dims.front();
    if (entry.values == 0) refuse(fmt::format("tensor {} is empty", quoted(pair.sums->name)));
    entry.rows = entry.values / row;
    if (pair.counts != nullptr) {
      const std::int64_t counts = elements_of(*pair.counts);
      if (counts != 1 && counts != entry.rows) {
        refuse(fmt::format("{} has {} counts for {} rows of sums", quoted(name), counts, entry.rows));
      }
      entry.counts.resize(static_cast<std::size_t>(counts));
      const std::vector<std::byte> bytes = bytes_at(header.data_start + pair.counts->offset, pair.counts->bytes());
      std::memcpy(entry.counts.data(), bytes.data(), bytes.size());
      for (const float count : entry.counts) {
        if (!(count >= 0 && std::isfinite(count))) refuse(fmt::format("{} has a count of {}", quoted(name), count));
      }
    }
    add(std::move(entry));
  }
}

void ImportanceFile::parse_safetensors() {
  kind_ = Kind::kSafetensors;
  const SafetensorsHeader header = read_safetensors_header(*file_, name_);
  for (const TensorEntry& tensor : header.tensors) {
    if (!is_float_source(tensor.dtype)) {
      refuse(fmt::format("tensor {} is {}; importances are F32, F16, BF16 or F64", quoted(tensor.name),
                         name_of(tensor.dtype)));
    }
    const std::int64_t values = static_cast<std::int64_t>(tensor.bytes()) / bytes_of(tensor.dtype);
    if (values == 0 || tensor.shape.empty() || tensor.shape.size() > 2) {
      refuse(fmt::format("tensor {} is neither a vector of a layer's inputs nor a matrix with one for each expert",
                         quoted(tensor.name)));
    }
    add({.name = tensor.name,
         .dtype = tensor.dtype,
         .offset = header.data_start + tensor.begin,
         .values = values,
         .rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1});
  }
}

// int32 entries; each: int32 length, name, int32 calls, int32 values, F32 values. Then, in later ones, int32 chunks,
// int32 length, the text's name. Values are means over the tokens times calls.
void ImportanceFile::parse_legacy() {
  kind_ = Kind::kImatrixLegacy;
  LegacyCursor in(*file_, name_);
  const std::int32_t count = in.number("the number of entries");
  if (count < 1 || static_cast<std::uint64_t>(count) > in.remaining() / kLeastEntry) {
    refuse("this is neither an imatrix of llama.cpp, as GGUF or binary, nor safetensors");
  }
  for (std::int32_t i = 0; i < count; ++i) {
    const std::string what = fmt::format("entry {}", i);
    const std::int32_t length = in.number("the name of " + what);
    if (length < 1 || length > kLongestName) {
      refuse(fmt::format("{} claims a name of {} bytes (at byte {}): {}", what, length, in.position() - 4, kCut));
    }
    const std::string name = in.text(static_cast<std::uint64_t>(length), "the name of " + what);
    if (!is_utf8(name) || name.find('\0') != std::string::npos) {
      refuse(fmt::format("{} has a name that is no text: {}", what, quoted(name)));
    }
    static_cast<void>(in.number("the calls of " + quoted(name)));
    const std::int32_t values = in.number("the number of values of " + quoted(name));
    if (values < 1) refuse(fmt::format("{} has {} values", quoted(name), values));
    const std::uint64_t offset = in.position();
    in.skip(sizeof(float) * static_cast<std::uint64_t>(values), "the values of " + quoted(name));
    add({.name = name, .offset = offset, .values = values});
  }
  if (in.remaining() > 0) static_cast<void>(in.number("the number of chunks"));
  if (in.remaining() > 0) {
    const std::int32_t length = in.number("the name of the text");
    if (length < 0) refuse(fmt::format("the name of its text has {} bytes", length));
    in.skip(static_cast<std::uint64_t>(length), "the name of the text");
  }
  if (in.remaining() > 0) refuse(fmt::format("{} bytes follow its end at byte {}", in.remaining(), in.position()));
}

}  // namespace halfquad
