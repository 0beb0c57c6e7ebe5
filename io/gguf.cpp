#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "io/gguf_cursor.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kCut = "the file is cut short or damaged; download or copy it again";
/// Least bytes of a key with its value and of a tensor's entry: what a count is held against.
constexpr std::uint64_t kLeastKeyBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kLeastTensorBytes = 8 + 1 + 4 + 4 + 8;

template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};

/// Reads a header front to back; every refusal names the file, what was being read, and where that begins.
class HeaderReader {
 public:
  HeaderReader(ReadFile& file, std::string_view name) : cursor_(file), file_(name) {}

  [[nodiscard]] GgufHeader read() {
    GgufHeader header;
    header.version = read_version();
    const auto tensors = number<std::uint64_t>("the number of tensors");
    const auto keys = number<std::uint64_t>("the number of keys");
    require_room(keys, kLeastKeyBytes, "keys");
    require_room(tensors, kLeastTensorBytes, "tensors");
    for (std::uint64_t i = 0; i < keys; ++i) header.keys.push_back(read_key(i));
    header.alignment = read_alignment(header);
    for (std::uint64_t i = 0; i < tensors; ++i) header.tensors.push_back(read_tensor(i));
    place_data(header);
    return header;
  }

 private:
  [[noreturn]] void refuse(std::uint64_t at, const std::string& reason) const {
    throw Error(ErrorCode::kBadInput, fmt::format("{}: {} (at byte {})", quoted(file_), reason, at));
  }

  /// The next `bytes` bytes, which belong to `what`.
  std::string_view take(std::uint64_t bytes, std::string_view what) {
    const std::uint64_t at = cursor_.position();
    if (bytes > cursor_.remaining()) {
      refuse(at, fmt::format("{} takes {} bytes but only {} follow: {}", what, bytes, cursor_.remaining(), kCut));
    }
    if (bytes > kMaxGgufHeaderBytes - std::min(at, kMaxGgufHeaderBytes)) {
      refuse(at, fmt::format("with {} the header is longer than the {} bytes allowed", what, kMaxGgufHeaderBytes));
    }
    return cursor_.take(static_cast<std::size_t>(bytes));
  }

  template <typename T>
  T number(std::string_view what) {
    static_assert(std::endian::native == std::endian::little);
    T value{};
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string text(std::string_view what) {
    const auto length = number<std::uint64_t>(what);
    return std::string(take(length, what));
  }

  std::uint32_t read_version() {
    HALFQUAD_REQUIRE(
        cursor_.remaining() >= kMagic.size(), kBadInput,
        fmt::format("{}: {} bytes are too few for a GGUF file: {}", quoted(file_), cursor_.remaining(), kCut));
    const std::string magic(take(kMagic.size(), "the magic"));
    if (magic == "vers") {
      refuse(0, "this is a Git LFS pointer and not the file itself; run \"git lfs pull\" in its folder");
    }
    if (magic != kMagic) refuse(0, fmt::format("begins with {} instead of \"GGUF\"", quoted(magic)));
    const auto version = number<std::uint32_t>("the version");
    if (version != 0 && (version & 0xFFFFU) == 0) refuse(kMagic.size(), "big-endian GGUF files are not supported");
    if (version == 1) refuse(kMagic.size(), "GGUF version 1 is not supported; convert the model again");
    if (version != 2 && version != kGgufVersion) {
      refuse(kMagic.size(), fmt::format("GGUF version {} is unknown; 2 and 3 are supported", version));
    }
    return version;
  }

  void require_room(std::uint64_t count, std::uint64_t least, std::string_view what) const {
    if (count > cursor_.remaining() / least) {
      refuse(cursor_.position(),
             fmt::format("{} {} are claimed, but only {} bytes follow: {}", count, what, cursor_.remaining(), kCut));
    }
  }

  /// The name of a key or tensor, checked.
  std::string read_name(const std::string& what) {
    const std::uint64_t at = cursor_.position();
    std::string name = text("the name of " + what);
    if (name.empty()) refuse(at, what + " has an empty name");
    if (name.find('\0') != std::string::npos)
      refuse(at, fmt::format("{} has a NUL in its name {}", what, quoted(name)));
    if (!is_utf8(name)) refuse(at, fmt::format("{} has a name that is not UTF-8: {}", what, quoted(name)));
    return name;
  }

  GgufKey read_key(std::uint64_t index) {
    const std::uint64_t at = cursor_.position();
    GgufKey key;
    key.name = read_name(fmt::format("key {}", index));
    if (!key_names_.insert(key.name).second) refuse(at, fmt::format("the key {} is there twice", quoted(key.name)));
    const std::string what = fmt::format("the value of {}", quoted(key.name));
    const std::uint64_t type_at = cursor_.position();
    const auto type = number<std::uint32_t>(what);
    if (type >= std::variant_size_v<GgufValue>) refuse(type_at, fmt::format("{} has the unknown type {}", what, type));
    key.value =
        type == static_cast<std::uint32_t>(GgufType::kArray) ? GgufValue(read_array(what)) : read_scalar<0>(type, what);
    return key;
  }

  template <typename T>
  T read_element(std::string_view what) {
    if constexpr (std::is_same_v<T, std::string>) {
      return text(what);
    } else if constexpr (std::is_same_v<T, bool>) {
      const std::uint64_t at = cursor_.position();
      const auto byte = number<std::uint8_t>(what);
      if (byte > 1) refuse(at, fmt::format("{} has a bool of {}, which is neither 0 nor 1", what, byte));
      return byte != 0;
    } else {
      return number<T>(what);
    }
  }

  template <std::size_t I>
  GgufValue read_scalar(std::uint32_t type, std::string_view what) {
    if constexpr (I < std::variant_size_v<GgufValue>) {
      using T = std::variant_alternative_t<I, GgufValue>;
      if constexpr (!std::is_same_v<T, GgufArray>) {
        if (type == I) return GgufValue(std::in_place_index<I>, read_element<T>(what));
      }
      return read_scalar<I + 1>(type, what);
    }
    throw Error(ErrorCode::kInternal, "a GGUF value of no type");
  }

  GgufArray read_array(const std::string& what) {
    const std::uint64_t at = cursor_.position();
    const auto type = number<std::uint32_t>(what);
    if (type >= std::variant_size_v<GgufArray>)
      refuse(at, fmt::format("{} has elements of unknown type {}", what, type));
    if (type == static_cast<std::uint32_t>(GgufType::kArray)) {
      refuse(at, what + " is an array of arrays, which GGUF readers do not support");
    }
    const auto count = number<std::uint64_t>(what);
    return read_elements<0>(type, count, what);
  }

  template <std::size_t I>
  GgufArray read_elements(std::uint32_t type, std::uint64_t count, const std::string& what) {
    if constexpr (I < std::variant_size_v<GgufArray>) {
      using Vector = std::variant_alternative_t<I, GgufArray>;
      if constexpr (IsVector<Vector>::value) {
        if (type == I) return GgufArray(std::in_place_index<I>, read_vector<typename Vector::value_type>(count, what));
      }
      return read_elements<I + 1>(type, count, what);
    }
    throw Error(ErrorCode::kInternal, "a GGUF array of no type");
  }

  template <typename T>
  std::vector<T> read_vector(std::uint64_t count, const std::string& what) {
    constexpr std::uint64_t kLeast = std::is_same_v<T, std::string> ? sizeof(std::uint64_t) : sizeof(T);
    const std::uint64_t room = std::min(cursor_.remaining(), kMaxGgufHeaderBytes) / kLeast;
    if (count > room) {
      refuse(cursor_.position(), fmt::format("{} claims {} elements, but only {} bytes follow: {}", what, count,
                                             cursor_.remaining(), kCut));
    }
    std::vector<T> out;
    // A string takes more memory than the 8 bytes it must have in the file: no room ahead for those.
    if constexpr (!std::is_same_v<T, std::string>) out.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) out.push_back(read_element<T>(what));
    return out;
  }

  [[nodiscard]] std::uint32_t read_alignment(const GgufHeader& header) const {
    const GgufValue* value = header.find(kGgufAlignmentKey);
    if (value == nullptr) return kGgufAlignment;
    const auto* alignment = std::get_if<std::uint32_t>(value);
    if (alignment == nullptr) {
      refuse(cursor_.position(), fmt::format("{} is a {} instead of a u32", kGgufAlignmentKey,
                                             gguf_type_name(static_cast<GgufType>(value->index()))));
    }
    if (!std::has_single_bit(*alignment)) {
      refuse(cursor_.position(), fmt::format("{} is {}, which is no power of 2", kGgufAlignmentKey, *alignment));
    }
    return *alignment;
  }

  GgufTensor read_tensor(std::uint64_t index) {
    const std::uint64_t at = cursor_.position();
    GgufTensor tensor;
    tensor.name = read_name(fmt::format("tensor {}", index));
    const std::string what = "tensor " + quoted(tensor.name);
    if (tensor.name.size() > kMaxGgufName) {
      refuse(at, fmt::format("{} has a name of {} bytes, more than the {} allowed", what, tensor.name.size(),
                             kMaxGgufName));
    }
    if (!tensor_names_.insert(tensor.name).second) refuse(at, what + " is there twice");
    const auto dims = number<std::uint32_t>(what);
    if (dims > kMaxGgufDims) refuse(at, fmt::format("{} has {} dimensions, more than {}", what, dims, kMaxGgufDims));
    for (std::uint32_t i = 0; i < dims; ++i) {
      tensor.dims.push_back(number<std::int64_t>(what));
      if (tensor.dims.back() < 0) refuse(at, fmt::format("{} has the dimension {}", what, tensor.dims.back()));
    }
    tensor.type = number<std::uint32_t>(what);
    tensor.offset = number<std::uint64_t>(what);
    check_size(tensor, at, what);
    return tensor;
  }

  void check_size(const GgufTensor& tensor, std::uint64_t at, const std::string& what) const {
    const GgmlType* type = find_ggml_type(tensor.type);
    if (type == nullptr) refuse(at, fmt::format("{} has the unknown type {}", what, tensor.type));
    const std::int64_t row = tensor.dims.empty() ? 1 : tensor.dims.front();
    if (row % type->block_elements != 0) {
      refuse(at, fmt::format("{} has rows of {} elements, which is no multiple of the {} in a block of {}", what, row,
                             type->block_elements, type->name));
    }
    if (!ggml_bytes(*type, tensor.dims)) {
      refuse(at, fmt::format("{} has a size that overflows 63 bits: [{}]", what, fmt::join(tensor.dims, ", ")));
    }
  }

  /// Where the data begins; each tensor must be where the one before it and its padding end, and the last one must end
  /// with the file.
  void place_data(GgufHeader& header) const {
    const std::uint64_t header_end = cursor_.position();
    const std::uint64_t size = header_end + cursor_.remaining();
    header.data_start = round_up<std::uint64_t>(header_end, header.alignment);
    if (!header.tensors.empty() && header.data_start > size) {
      refuse(header_end, fmt::format("the data section begins at byte {}, behind the end of the file: {}",
                                     header.data_start, kCut));
    }
    std::uint64_t end = 0;
    std::uint64_t expected = 0;
    for (const GgufTensor& tensor : header.tensors) {
      const std::string what = "tensor " + quoted(tensor.name);
      if (tensor.offset != expected) {
        refuse(header.data_start, fmt::format("{} is at byte {} of the data instead of {}, where the one before it and "
                                              "its padding end",
                                              what, tensor.offset, expected));
      }
      const std::uint64_t room = size - header.data_start;
      if (expected > room || tensor.bytes() > room - expected) {
        refuse(header.data_start, fmt::format("{} takes {} bytes from byte {} of the data, but the file holds {}: {}",
                                              what, tensor.bytes(), expected, room, kCut));
      }
      end = expected + tensor.bytes();
      expected = round_up<std::uint64_t>(end, header.alignment);
    }
    // A program may leave out the padding behind the last tensor, or pad a file without tensors.
    const std::uint64_t last = header.data_start + expected;
    if (size > last) refuse(last, fmt::format("{} bytes follow the last tensor", size - last));
  }

  GgufCursor cursor_;
  std::string_view file_;
  std::unordered_set<std::string> key_names_;
  std::unordered_set<std::string> tensor_names_;
};

}  // namespace

std::uint64_t GgufTensor::bytes() const {
  const GgmlType* known = find_ggml_type(type);
  const std::optional<std::uint64_t> size = known == nullptr ? std::nullopt : ggml_bytes(*known, dims);
  HALFQUAD_REQUIRE(size.has_value(), kInternal, fmt::format("tensor {} has no size", quoted(name)));
  return *size;
}

const GgufValue* GgufHeader::find(std::string_view key) const {
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const GgufKey& k) { return k.name == key; });
  return found == keys.end() ? nullptr : &found->value;
}

GgufHeader read_gguf_header(ReadFile& file, std::string_view name) { return HeaderReader(file, name).read(); }

}  // namespace halfquad
