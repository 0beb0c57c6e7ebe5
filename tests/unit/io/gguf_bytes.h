#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace halfquad::test {

/// Bytes of a GGUF header written field by field, so that any field can be wrong.
class GgufBytes {
 public:
  /// Magic, version and the two counts.
  GgufBytes(std::uint32_t version, std::uint64_t tensors, std::uint64_t keys) {
    raw("GGUF").u32(version).u64(tensors).u64(keys);
  }

  GgufBytes& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  GgufBytes& u8(std::uint8_t value) { return little_endian(value, 1); }
  GgufBytes& u32(std::uint32_t value) { return little_endian(value, 4); }
  GgufBytes& u64(std::uint64_t value) { return little_endian(value, 8); }
  GgufBytes& text(std::string_view value) { return u64(value.size()).raw(value); }
  /// A key with a u32.
  GgufBytes& key(std::string_view name, std::uint32_t value) { return text(name).u32(4).u32(value); }
  GgufBytes& tensor(std::string_view name, std::initializer_list<std::uint64_t> dims, std::uint32_t type,
                    std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t dim : dims) u64(dim);
    return u32(type).u64(offset);
  }
  /// Zeros up to a multiple of `alignment`, then `bytes` zeros of data.
  GgufBytes& data(std::size_t bytes, std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment + bytes);
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }
  operator std::string() const { return bytes_; }  // NOLINT: lets a table of cases hold the chain of calls itself

 private:
  GgufBytes& little_endian(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) bytes_ += static_cast<char>(value >> (8 * i) & 0xFFU);
    return *this;
  }

  std::string bytes_;
};

}  // namespace halfquad::test
