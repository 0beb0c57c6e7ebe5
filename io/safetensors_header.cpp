#include "io/safetensors_header.h"

#include <algorithm>
#include <cstddef>
#include <tuple>

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "io/aligned_scratch.h"
#include "io/json.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kBitsPerByte = 8;
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::string_view kDamaged = "the file is damaged or was written by a faulty program";

/// Bytes of `count` elements; `bits_over` is what is left when they do not fill whole bytes.
struct StoredSize {
  std::uint64_t bytes = 0;
  std::uint64_t bits_over = 0;
};

std::optional<StoredSize> stored_size(std::int64_t count, DType dtype) {
  const auto bits = checked_mul<std::int64_t>(count, bits_of(dtype));
  if (!bits) return std::nullopt;
  const auto unsigned_bits = static_cast<std::uint64_t>(*bits);
  return StoredSize{unsigned_bits / kBitsPerByte, unsigned_bits % kBitsPerByte};
}

/// Reads one tensor's declaration; every refusal names the file and the tensor.
class EntryReader {
 public:
  EntryReader(std::string_view file, std::string_view name) : file_(file), name_(name) {}

  [[nodiscard]] TensorEntry read(const json::value& value) const {
    const json::object* fields = value.if_object();
    if (fields == nullptr) refuse("is not a JSON object");
    TensorEntry entry;
    entry.name = name_;
    entry.dtype = read_dtype(*fields);
    entry.shape = read_shape(*fields);
    std::tie(entry.begin, entry.end) = read_offsets(*fields);
    check_size(entry);
    return entry;
  }

  [[noreturn]] void refuse(const std::string& reason) const {
    throw Error(ErrorCode::kBadInput, fmt::format("{}: tensor {} {}", quoted(file_), quoted(name_), reason));
  }

 private:
  [[nodiscard]] const json::value& field(const json::object& fields, std::string_view key) const {
    const json::value* value = fields.if_contains({key.data(), key.size()});
    if (value == nullptr) refuse(fmt::format("has no \"{}\"", key));
    return *value;
  }

  [[nodiscard]] const json::array& array_field(const json::object& fields, std::string_view key) const {
    const json::array* array = field(fields, key).if_array();
    if (array == nullptr) refuse(fmt::format("has a \"{}\" that is not an array", key));
    return *array;
  }

  [[nodiscard]] DType read_dtype(const json::object& fields) const {
    const json::string* text = field(fields, "dtype").if_string();
    if (text == nullptr) refuse("has a \"dtype\" that is not a string");
    const std::string_view name(text->data(), text->size());
    const std::optional<DType> dtype = dtype_from_name(name);
    if (!dtype) refuse(fmt::format("has the unknown dtype {}", quoted(name)));
    return *dtype;
  }

  [[nodiscard]] std::vector<std::int64_t> read_shape(const json::object& fields) const {
    const json::array& array = array_field(fields, "shape");
    std::vector<std::int64_t> shape;
    shape.reserve(array.size());
    for (const json::value& dim : array) {
      if (dim.is_uint64()) refuse(fmt::format("has the dimension {}, which no size can hold", dim.get_uint64()));
      if (!dim.is_int64()) refuse("has a dimension that is not an integer");
      if (dim.get_int64() < 0) refuse(fmt::format("has the negative dimension {}", dim.get_int64()));
      shape.push_back(dim.get_int64());
    }
    return shape;
  }

  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> read_offsets(const json::object& fields) const {
    const json::array& array = array_field(fields, "data_offsets");
    if (array.size() != 2) refuse(fmt::format("has {} data_offsets instead of two", array.size()));
    const std::uint64_t begin = read_offset(array[0]);
    const std::uint64_t end = read_offset(array[1]);
    if (begin > end) refuse(fmt::format("has data_offsets [{}, {}] that run backwards", begin, end));
    return {begin, end};
  }

  [[nodiscard]] std::uint64_t read_offset(const json::value& value) const {
    if (value.is_uint64()) return value.get_uint64();
    if (!value.is_int64()) refuse("has a data offset that is not an integer");
    if (value.get_int64() < 0) refuse(fmt::format("has the negative data offset {}", value.get_int64()));
    return static_cast<std::uint64_t>(value.get_int64());
  }

  void check_size(const TensorEntry& entry) const {
    const std::optional<std::int64_t> count = element_count(entry.shape);
    const std::optional<StoredSize> size = count ? stored_size(*count, entry.dtype) : std::nullopt;
    if (!size) refuse("has a shape whose size overflows 63 bits");
    if (size->bits_over != 0) {
      refuse(fmt::format("holds {} elements of {}, which do not fill whole bytes", *count, name_of(entry.dtype)));
    }
    if (size->bytes != entry.bytes()) {
      refuse(fmt::format("has data_offsets [{}, {}], {} bytes, but its shape [{}] of {} takes {}", entry.begin,
                         entry.end, entry.bytes(), fmt::join(entry.shape, ", "), name_of(entry.dtype), size->bytes));
    }
  }

  std::string_view file_;
  std::string_view name_;
};

std::map<std::string, std::string> read_metadata(const json::value& value, std::string_view file) {
  const json::object* fields = value.if_object();
  HALFQUAD_REQUIRE(fields != nullptr, kBadInput,
                   fmt::format("{}: {} in the header is not a JSON object", quoted(file), kMetadataKey));
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : *fields) {
    const std::string_view name(key.data(), key.size());
    HALFQUAD_REQUIRE(
        text.is_string(), kBadInput,
        fmt::format("{}: {} has a value for {} that is not a string", quoted(file), kMetadataKey, quoted(name)));
    metadata.emplace(name, std::string_view(text.get_string()));
  }
  return metadata;
}

/// The tensors, by begin, must fill the data section from its first byte to its last.
void check_coverage(std::span<const TensorEntry> tensors, std::uint64_t data_bytes, std::string_view file) {
  std::uint64_t expected = 0;
  const TensorEntry* before = nullptr;
  for (const TensorEntry& tensor : tensors) {
    const EntryReader reader(file, tensor.name);
    if (tensor.end > data_bytes) {
      reader.refuse(
          fmt::format("ends at byte {} of the data, but the file holds {}: it is cut short by at least {} "
                      "bytes; download or copy it again",
                      tensor.end, data_bytes, tensor.end - data_bytes));
    }
    if (tensor.begin < expected) {
      reader.refuse(fmt::format("begins at byte {} of the data and overlaps tensor {}, which ends at {}: {}",
                                tensor.begin, quoted(before->name), expected, kDamaged));
    }
    if (tensor.begin > expected) {
      reader.refuse(fmt::format("begins at byte {} of the data and leaves a hole of {} bytes before it: {}",
                                tensor.begin, tensor.begin - expected, kDamaged));
    }
    expected = tensor.end;
    before = &tensor;
  }
  HALFQUAD_REQUIRE(expected == data_bytes, kBadInput,
                   fmt::format("{}: {} bytes follow the last tensor, which ends at byte {} of the data: {}",
                               quoted(file), data_bytes - expected, expected, kDamaged));
}

std::string json_text(std::string_view text) { return json::serialize(json::string_view(text.data(), text.size())); }

/// The header's bytes with room for the length in front.
std::string header_text(std::span<const TensorEntry> tensors, const std::map<std::string, std::string>& metadata) {
  std::string out(kLengthBytes, '\0');
  out += '{';
  std::string_view comma;
  if (!metadata.empty()) {
    out += fmt::format("\"{}\":{{", kMetadataKey);
    for (const auto& [key, text] : metadata) {
      out += fmt::format("{}{}:{}", comma, json_text(key), json_text(text));
      comma = ",";
    }
    out += '}';
  }
  std::uint64_t expected = 0;
  for (const TensorEntry& tensor : tensors) {
    HALFQUAD_REQUIRE(tensor.begin == expected && tensor.end >= tensor.begin, kInternal,
                     fmt::format("output tensor {} is not where the one before it ends", quoted(tensor.name)));
    expected = tensor.end;
    out +=
        fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", comma, json_text(tensor.name),
                    name_of(tensor.dtype), fmt::join(tensor.shape, ","), tensor.begin, tensor.end);
    comma = ",";
  }
  out += '}';
  out.resize(round_up(out.size(), kLengthBytes), ' ');
  return out;
}

}  // namespace

std::optional<std::int64_t> element_count(std::span<const std::int64_t> shape) {
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t dim) { return dim < 0; })) return std::nullopt;
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) {
    const std::optional<std::int64_t> product = checked_mul(count, dim);
    if (!product) return std::nullopt;
    count = *product;
  }
  return count;
}

SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t data_bytes, std::string_view file) {
  const std::string shown = quoted(file);
  HALFQUAD_REQUIRE(!json.empty(), kBadInput, shown + ": the header is empty; this is no safetensors file");
  HALFQUAD_REQUIRE(json.front() == '{', kBadInput,
                   fmt::format("{}: the header begins with byte 0x{:02x} instead of '{{'; this is no safetensors file",
                               shown, static_cast<unsigned char>(json.front())));
  const json::value root = parse_json(json, shown + ": header");

  SafetensorsHeader header;
  header.data_start = kLengthBytes + json.size();
  header.tensors.reserve(root.get_object().size());
  for (const auto& [key, value] : root.get_object()) {
    const std::string_view name(key.data(), key.size());
    if (name == kMetadataKey) {
      header.metadata = read_metadata(value, file);
      continue;
    }
    HALFQUAD_REQUIRE(!name.empty(), kBadInput, shown + ": a tensor in the header has an empty name");
    header.tensors.push_back(EntryReader(file, name).read(value));
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  check_coverage(header.tensors, data_bytes, file);
  return header;
}

std::string read_safetensors_header_json(ReadFile& file, std::string_view name) {
  const std::string shown = quoted(name);
  const std::uint64_t size = file.size();
  HALFQUAD_REQUIRE(
      size >= kLengthBytes, kBadInput,
      fmt::format("{}: {} bytes are too few for a safetensors file; download or copy it again", shown, size));
  const AlignedScratch length_scratch(kLengthBytes);
  const std::span<const std::byte> prefix = file.read(0, kLengthBytes, length_scratch.bytes());
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    length |= std::to_integer<std::uint64_t>(prefix[i]) << (kBitsPerByte * i);

  const std::string_view text(reinterpret_cast<const char*>(prefix.data()), prefix.size());
  HALFQUAD_REQUIRE(text != "version ", kBadInput,
                   shown + ": this is a Git LFS pointer and not the file itself; run \"git lfs pull\" in its folder");
  HALFQUAD_REQUIRE(length <= kMaxHeaderBytes, kBadInput,
                   fmt::format("{}: the first 8 bytes claim a header of {} bytes, more than the {} allowed; this is no "
                               "safetensors file",
                               shown, length, kMaxHeaderBytes));
  HALFQUAD_REQUIRE(length <= size - kLengthBytes, kBadInput,
                   fmt::format("{}: the header claims {} bytes but only {} follow its length; the file is cut short, "
                               "download or copy it again",
                               shown, length, size - kLengthBytes));
  const AlignedScratch scratch(static_cast<std::size_t>(length));
  const std::span<const std::byte> json = file.read(kLengthBytes, static_cast<std::size_t>(length), scratch.bytes());
  return {reinterpret_cast<const char*>(json.data()), json.size()};
}

SafetensorsHeader read_safetensors_header(ReadFile& file, std::string_view name) {
  const std::string json = read_safetensors_header_json(file, name);
  return parse_safetensors_header(json, file.size() - kLengthBytes - json.size(), name);
}

std::uint64_t safetensors_header_bytes(std::span<const TensorEntry> tensors,
                                       const std::map<std::string, std::string>& metadata) {
  return header_text(tensors, metadata).size();
}

std::string serialize_safetensors_header(std::span<const TensorEntry> tensors,
                                         const std::map<std::string, std::string>& metadata) {
  std::string out = header_text(tensors, metadata);
  const std::uint64_t length = out.size() - kLengthBytes;
  HALFQUAD_REQUIRE(length <= kMaxHeaderBytes, kBadInput,
                   fmt::format("the output's header would take {} bytes, more than the {} that readers of safetensors "
                               "accept: too many tensors for one file; pass --max-shard-size, or a smaller one",
                               length, kMaxHeaderBytes));
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    out[i] = static_cast<char>(length >> (kBitsPerByte * i) & 0xFFU);
  }
  return out;
}

FileImage safetensors_image(std::span<const TensorEntry> tensors, const std::map<std::string, std::string>& metadata) {
  FileImage image;
  image.fixed.push_back({0, serialize_safetensors_header(tensors, metadata)});
  const std::uint64_t data_start = image.fixed[0].bytes.size();
  for (const TensorEntry& tensor : tensors) image.offsets.push_back(data_start + tensor.begin);
  image.bytes = data_start + (tensors.empty() ? 0 : tensors.back().end);
  return image;
}

}  // namespace halfquad
