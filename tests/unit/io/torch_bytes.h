#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace halfquad::test {

/// `value` as it is. Not inlined: of sums that begin with a literal GCC 12 warns that their parts may overlap.
[[gnu::noinline]] inline std::string raw(std::string_view value) { return std::string(value); }

/// `value`, little-endian.
inline std::string little(std::uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xFFU));
  return out;
}

struct ZipFileEntry {
  std::string name;
  std::string data;
  int method = 0;  ///< 8: compressed.
  int flags = 0;   ///< 1: encrypted.
};

enum class ZipKind { kPlain, kZip64 };

/// A zip archive as torch.save() makes them, without checksums. kZip64: all sizes and offsets are in zip64 fields.
inline std::string zip_bytes(const std::vector<ZipFileEntry>& entries, ZipKind kind = ZipKind::kPlain) {
  std::string out, directory;
  const bool wide = kind == ZipKind::kZip64;
  for (const ZipFileEntry& entry : entries) {
    const std::uint64_t at = out.size(), size = entry.data.size();
    const std::string extra = wide ? little(7, 2) + little(1, 2) + "x" + little(1, 2) + little(24, 2) +
                                         little(size, 8) + little(size, 8) + little(at, 8)
                                   : "";
    const std::string sizes = wide ? little(0xFFFFFFFF, 4) + little(0xFFFFFFFF, 4) : little(size, 4) + little(size, 4);
    const std::string common = little(static_cast<std::uint64_t>(entry.flags), 2) +
                               little(static_cast<std::uint64_t>(entry.method), 2) + little(0, 4) + little(0, 4) +
                               sizes + little(entry.name.size(), 2);
    out += raw("PK\x03\x04") + little(45, 2) + common + little(3, 2) + entry.name + "pad" + entry.data;
    directory += raw("PK\x01\x02") + little(45, 2) + little(45, 2) + common + little(extra.size(), 2) + little(0, 2) +
                 little(0, 2) + little(0, 2) + little(0, 4) + little(wide ? 0xFFFFFFFF : at, 4) + entry.name + extra;
  }
  const std::uint64_t at = out.size(), count = entries.size();
  out += directory;
  if (wide) {
    const std::uint64_t record = out.size();
    out += raw("PK\x06\x06") + little(44, 8) + little(45, 2) + little(45, 2) + little(0, 4) + little(0, 4) +
           little(count, 8) + little(count, 8) + little(directory.size(), 8) + little(at, 8);
    out += raw("PK\x06\x07") + little(0, 4) + little(record, 8) + little(1, 4);
  }
  out += raw("PK\x05\x06") + little(0, 4) + little(wide ? 0xFFFF : count, 2) + little(wide ? 0xFFFF : count, 2) +
         little(wide ? 0xFFFFFFFF : directory.size(), 4) + little(wide ? 0xFFFFFFFF : at, 4) + little(0, 2);
  return out;
}

// Pieces of pickles.
inline std::string text(std::string_view value) { return raw("X") + little(value.size(), 4) + std::string(value); }
inline std::string number(std::uint64_t value) { return raw("\x8a\x08") + little(value, 8); }
inline std::string global(std::string_view module, std::string_view name) {
  return raw("c") + std::string(module) + "\n" + std::string(name) + "\n";
}
inline std::string tuple(const std::vector<std::string>& parts) {
  std::string out = "(";
  for (const std::string& part : parts) out += part;
  return out + "t";
}
inline std::string tuple(const std::vector<std::uint64_t>& numbers) {
  std::vector<std::string> parts;
  for (const std::uint64_t value : numbers) parts.push_back(number(value));
  return tuple(parts);
}
inline std::string storage(std::string_view type, std::string_view key, std::uint64_t elements) {
  return tuple({text("storage"), global("torch", type), text(key), text("cpu"), number(elements)}) + "Q";
}

struct TensorPickle {
  std::string storage = test::storage("FloatStorage", "0", 6);
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> shape = {2, 3}, strides = {3, 1};
};
inline std::string tensor(const TensorPickle& from = {}) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple({from.storage, number(from.offset), tuple(from.shape), tuple(from.strides), "\x89",
                global("collections", "OrderedDict") + ")R"}) +
         "R";
}

/// A pickled dict: key, value, key, value, ...
inline std::string dict(const std::vector<std::string>& items) {
  std::string out = "\x80\x02}(";
  for (const std::string& item : items) out += item;
  return out + "u.";
}

/// The files of a state dict.
inline std::vector<ZipFileEntry> torch_entries(const std::string& pickle, const std::string& storage_bytes) {
  return {{"m/data.pkl", pickle}, {"m/byteorder", "little"}, {"m/data/0", storage_bytes}, {"m/version", "3\n"}};
}

}  // namespace halfquad::test
