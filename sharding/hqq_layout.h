#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "io/safetensors_header.h"
#include "sharding/rules.h"
#include "sharding/tiles.h"

namespace halfquad {

/// What one tensor of the output file holds.
struct OutputTensor {
  enum class Kind : std::uint8_t { kCopy, kConstant, kCodes, kScale, kZero };
  Kind kind = Kind::kCopy;
  std::size_t source = 0;  ///< kCopy: index into Checkpoint::tensors().
  std::string constant;    ///< kConstant: the bytes.
  BlockLayout blocks;      ///< How its checksum is cut.
  std::size_t file = 0;    ///< Index into OutputLayout::files().
};

/// One weight file of the output: entries [begin, end) of the layout.
struct OutputFile {
  std::string name;
  std::size_t begin = 0, end = 0;
  std::uint64_t data_start = 0;  ///< Bytes of its header.
  std::uint64_t data_bytes = 0;

  [[nodiscard]] std::uint64_t bytes() const noexcept { return data_start + data_bytes; }
};

/// The weight file of an output that has only one.
inline constexpr char kWeightsName[] = "model.safetensors";
/// The index of an output that has several.
inline constexpr char kIndexName[] = "model.safetensors.index.json";

/// One quantized linear layer: its source, its spec, its tiles and its three data tensors in the output.
struct QuantizedTensor {
  std::size_t source = 0;
  std::string module;
  QuantSpec spec;
  std::int64_t rows = 0, cols = 0;
  TileGeometry tiles;
  std::size_t codes = 0, scale = 0, zero = 0;  ///< Indices into OutputLayout::tensors().
};

/// Every tensor of an output in hqq's own safetensors layout, with dtype, shape, file and byte range, from headers and
/// decisions alone. The data section of a file comes sorted by dtype, widest first, then by name.
class OutputLayout {
 public:
  struct Catalog;  // of the implementation
  static constexpr std::uint64_t kOneFile = std::numeric_limits<std::uint64_t>::max();

  /// `stored` (F16, BF16, F32) is the dtype of scale and zero, and what the file names as compute_dtype. Modules go to
  /// files in the order of the source, as many as fit `max_shard_bytes` of tensors; one that is larger gets a file of
  /// its own. All tensors of a module lie in one file: loaders put a quantized layer together from a single one.
  /// kOneFile: one, unless it had more tensors than a header may name.
  OutputLayout(const Checkpoint& checkpoint, std::span<const Decision> decisions, DType stored,
               std::uint64_t max_shard_bytes = kOneFile);

  [[nodiscard]] std::span<const OutputFile> files() const noexcept { return files_; }
  /// `__metadata__` of every file.
  [[nodiscard]] static const std::map<std::string, std::string>& metadata();
  /// Header entries, file by file and in file order; contents()[i] says what entries()[i] holds. Their ranges count
  /// from the start of the data section of their file.
  [[nodiscard]] std::span<const TensorEntry> entries() const noexcept { return entries_; }
  [[nodiscard]] std::span<const TensorEntry> entries_of(const OutputFile& file) const noexcept {
    return entries().subspan(file.begin, file.end - file.begin);
  }
  /// Where entry `entry` begins in its file.
  [[nodiscard]] std::uint64_t file_offset(std::size_t entry) const {
    return files_[contents_[entry].file].data_start + entries_[entry].begin;
  }
  [[nodiscard]] const OutputFile& file_of(std::size_t entry) const { return files_[contents_[entry].file]; }
  [[nodiscard]] std::span<const OutputTensor> contents() const noexcept { return contents_; }
  [[nodiscard]] std::span<const QuantizedTensor> quantized() const noexcept { return quantized_; }
  [[nodiscard]] DType stored() const noexcept { return stored_; }
  /// Bytes of all files, without and with their headers.
  [[nodiscard]] std::uint64_t data_bytes() const noexcept;
  [[nodiscard]] std::uint64_t file_bytes() const noexcept;

 private:
  [[nodiscard]] std::vector<std::size_t> arrange(Catalog& catalog, std::uint64_t max_shard_bytes);
  void append(TensorEntry entry, OutputTensor content);
  void finish_files();

  std::vector<OutputFile> files_;
  std::vector<TensorEntry> entries_;
  std::vector<OutputTensor> contents_;
  std::vector<QuantizedTensor> quantized_;
  DType stored_;
};

/// The text of kIndexName for an output of several files; empty for one.
[[nodiscard]] std::string index_text(const OutputLayout& layout);

/// The source's config.json with the quantization_config that transformers 4.5x reads: the most frequent spec, and
/// skip_modules naming lm_head and every 2-D weight's module that is not quantized.
[[nodiscard]] boost::json::object hqq_config(const Checkpoint& checkpoint, std::span<const Decision> decisions);

/// Pairs (skip entry, quantized module) where transformers' substring test would wrongly skip a quantized module.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> skip_conflicts(const Checkpoint& checkpoint,
                                                                              std::span<const Decision> decisions);

}  // namespace halfquad
