#include <algorithm>
#include <bit>
#include <cstddef>
#include <type_traits>
#include <unordered_set>

#include <fmt/format.h>

#include "io/gguf.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

/// Builds the bytes of a header.
class HeaderWriter {
 public:
  template <typename T>
  void number(T value) {
    static_assert(std::endian::native == std::endian::little);
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::copy_n(reinterpret_cast<const char*>(&value), sizeof(T), bytes_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  void text(std::string_view value) {
    number<std::uint64_t>(value.size());
    bytes_ += value;
  }

  void key(const GgufKey& key) {
    text(key.name);
    number(static_cast<std::uint32_t>(key.value.index()));
    std::visit([this](const auto& value) { element(value); }, key.value);
  }

  void tensor(const GgufTensor& tensor, std::uint64_t offset) {
    text(tensor.name);
    number(static_cast<std::uint32_t>(tensor.dims.size()));
    for (const std::int64_t dim : tensor.dims) number(dim);
    number(tensor.type);
    number(offset);
  }

  std::string& bytes() { return bytes_; }

 private:
  template <typename T>
  void element(const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      text(value);
    } else if constexpr (std::is_same_v<T, bool>) {
      number<std::uint8_t>(value ? 1 : 0);
    } else {
      number(value);
    }
  }

  void element(const GgufArray& array) {
    number(static_cast<std::uint32_t>(array.index()));
    std::visit(
        [this](const auto& values) {
          if constexpr (std::is_same_v<std::decay_t<decltype(values)>, std::monostate>) {
            throw Error(ErrorCode::kBadInput, "the output's GGUF header would hold an array of arrays");
          } else {
            number<std::uint64_t>(values.size());
            for (auto&& value : values)
              element(static_cast<typename std::decay_t<decltype(values)>::value_type>(value));
          }
        },
        array);
  }

  std::string bytes_;
};

void require_good_name(std::string_view name, std::unordered_set<std::string_view>& seen, std::string_view what) {
  HALFQUAD_REQUIRE(!name.empty() && name.find('\0') == std::string_view::npos && is_utf8(name), kBadInput,
                   fmt::format("the output's GGUF header would have a {} named {}", what, quoted(name)));
  HALFQUAD_REQUIRE(seen.insert(name).second, kBadInput,
                   fmt::format("the output's GGUF header would have the {} {} twice", what, quoted(name)));
}

void check_keys(const GgufHeader& header) {
  HALFQUAD_REQUIRE(header.version == 2 || header.version == kGgufVersion, kBadInput,
                   fmt::format("GGUF version {} cannot be written", header.version));
  std::unordered_set<std::string_view> seen;
  for (const GgufKey& key : header.keys) require_good_name(key.name, seen, "key");
  const GgufValue* value = header.find(kGgufAlignmentKey);
  const auto* stated = value == nullptr ? nullptr : std::get_if<std::uint32_t>(value);
  HALFQUAD_REQUIRE(
      (value == nullptr ? header.alignment == kGgufAlignment : stated != nullptr && *stated == header.alignment) &&
          std::has_single_bit(header.alignment),
      kBadInput,
      fmt::format("the output's alignment of {} bytes and its {} disagree, or it is no power of 2", header.alignment,
                  kGgufAlignmentKey));
}

/// Offsets of the tensors in the data section, and where that ends.
std::vector<std::uint64_t> place_tensors(const GgufHeader& header) {
  std::vector<std::uint64_t> offsets = {0};
  std::unordered_set<std::string_view> seen;
  for (const GgufTensor& tensor : header.tensors) {
    require_good_name(tensor.name, seen, "tensor");
    HALFQUAD_REQUIRE(
        tensor.name.size() <= kMaxGgufName, kBadInput,
        fmt::format("the output's tensor {} has a name of {} bytes, more than the {} that GGUF readers take",
                    quoted(tensor.name), tensor.name.size(), kMaxGgufName));
    const GgmlType* type = find_ggml_type(tensor.type);
    const auto bytes =
        type == nullptr || tensor.dims.size() > kMaxGgufDims ? std::nullopt : ggml_bytes(*type, tensor.dims);
    HALFQUAD_REQUIRE(
        bytes.has_value(), kBadInput,
        fmt::format("the output's tensor {} has a type or shape that GGUF cannot hold", quoted(tensor.name)));
    const auto end = checked_add(offsets.back(), round_up<std::uint64_t>(*bytes, header.alignment));
    HALFQUAD_REQUIRE(end.has_value(), kBadInput, "the output's tensors take more than 64 bits of bytes");
    offsets.push_back(*end);
  }
  return offsets;
}

}  // namespace

FileImage gguf_image(const GgufHeader& header) {
  check_keys(header);
  std::vector<std::uint64_t> offsets = place_tensors(header);

  HeaderWriter writer;
  writer.bytes() = "GGUF";
  writer.number(header.version);
  writer.number<std::uint64_t>(header.tensors.size());
  writer.number<std::uint64_t>(header.keys.size());
  for (const GgufKey& key : header.keys) writer.key(key);
  for (std::size_t i = 0; i < header.tensors.size(); ++i) writer.tensor(header.tensors[i], offsets[i]);
  if (!header.tensors.empty()) {
    writer.bytes().resize(round_up<std::size_t>(writer.bytes().size(), header.alignment), '\0');
  }
  const std::uint64_t data_start = writer.bytes().size();
  HALFQUAD_REQUIRE(
      data_start <= kMaxGgufHeaderBytes, kBadInput,
      fmt::format("the output's header would take {} bytes, more than {}", data_start, kMaxGgufHeaderBytes));

  FileImage image;
  image.fixed.push_back({0, std::move(writer.bytes())});
  for (std::uint64_t& offset : offsets) offset += data_start;
  image.bytes = offsets.back();
  offsets.pop_back();
  image.offsets = std::move(offsets);
  return image;
}

}  // namespace halfquad
