#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "io/file_system.h"
#include "runtime/dtype.h"

namespace halfquad {

/// What an importance file says of the inputs of one layer, or of each of several experts.
struct ImportanceEntry {
  std::string name;  ///< As the file has it, without a final ".weight".
  DType dtype = DType::kF32;
  std::uint64_t offset = 0;  ///< Of the values in the file.
  std::int64_t values = 0;   ///< Of all experts, one behind the other.
  std::int64_t rows = 0;     ///< Experts, 1 for a layer; 0: the file does not tell.
  /// How many tokens each row was measured with; of one number for all rows: that. Empty: the file does not tell.
  std::vector<float> counts = {};
};

/// A file of mean squares, or sums of squares, of the inputs of layers: llama.cpp's imatrix as GGUF or in its older
/// binary form, or safetensors with a vector (or, of experts, a matrix) for each module. Names and places are read at
/// once and checked against the file's length; the values when they are asked for.
class ImportanceFile {
 public:
  enum class Kind : std::uint8_t { kImatrixGguf, kImatrixLegacy, kSafetensors };

  /// Throws kBadInput naming the file and the entry, or kIo.
  static ImportanceFile open(FileSystem& fs, const std::filesystem::path& path);
  /// `name` is how messages call the file.
  static ImportanceFile parse(std::unique_ptr<ReadFile> file, std::string name);

  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  [[nodiscard]] std::string_view kind_name() const noexcept;  ///< "imatrix (GGUF)", "imatrix", "safetensors"
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// In the file's order; no two have the same name.
  [[nodiscard]] std::span<const ImportanceEntry> entries() const noexcept { return entries_; }

  /// Values [first, first + count) of an entry, as they are stored. Thread-safe.
  /// @pre They are there.
  [[nodiscard]] std::vector<std::byte> read(const ImportanceEntry& entry, std::int64_t first, std::int64_t count) const;
  /// Checksum of the whole file, 16 hexadecimal digits. Reads it.
  [[nodiscard]] std::string digest() const;

 private:
  ImportanceFile(std::unique_ptr<ReadFile> file, std::string name) : file_(std::move(file)), name_(std::move(name)) {}
  void parse_gguf();
  void parse_safetensors();
  void parse_legacy();
  void add(ImportanceEntry entry);
  [[nodiscard]] std::vector<std::byte> bytes_at(std::uint64_t offset, std::uint64_t count) const;
  [[noreturn]] void refuse(const std::string& reason) const;

  std::unique_ptr<ReadFile> file_;
  std::string name_;
  Kind kind_ = Kind::kImatrixLegacy;
  std::vector<ImportanceEntry> entries_;
  std::unordered_set<std::string> names_;
};

}  // namespace halfquad
