#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_image.h"
#include "io/image_writer.h"
#include "io/safetensors_header.h"
#include "sharding/format.h"
#include "sharding/output_catalog.h"
#include "sharding/rules.h"
#include "sharding/tiles.h"

namespace halfquad {

/// One weight file of the output: entries [begin, end) of the layout.
struct OutputFile {
  std::string name;
  std::size_t begin = 0, end = 0;
  std::uint64_t data_bytes = 0;  ///< Of its tensors.
  FileImage image;               ///< Its offsets are those of entries begin, begin + 1, ...

  [[nodiscard]] std::uint64_t bytes() const noexcept { return image.bytes; }
};

/// The weight file of an output that has only one.
inline constexpr char kWeightsName[] = "model.safetensors";
/// The index of an output that has several.
inline constexpr char kIndexName[] = "model.safetensors.index.json";

/// Every tensor of an output, with dtype, shape, file and byte range, from headers and decisions alone. The data of a
/// file come sorted by dtype, widest first, then by name, unless the format keeps their order.
class OutputLayout {
 public:
  static constexpr std::uint64_t kOneFile = std::numeric_limits<std::uint64_t>::max();

  /// `stored` (F16, BF16, F32) is the dtype of scales, and what hqq's files name as compute_dtype. Modules go to
  /// files in the order of the source, as many as fit `max_shard_bytes` of tensors; one that is larger gets a file of
  /// its own. All tensors of a module lie in one file: loaders put a quantized layer together from a single one.
  /// kOneFile: one, unless it had more tensors than a header may name.
  OutputLayout(const Checkpoint& checkpoint, std::span<const Decision> decisions, DType stored,
               std::uint64_t max_shard_bytes = kOneFile, const Format& format = hqq_format(),
               const SourceTexts& texts = {});

  [[nodiscard]] const Format& format() const noexcept { return *format_; }

  [[nodiscard]] std::span<const OutputFile> files() const noexcept { return files_; }
  /// Names and sizes of the tensors of a file, for an ImageWriter.
  [[nodiscard]] std::vector<ImageWriter::Slot> slots_of(const OutputFile& file) const;
  /// Header entries, file by file and in file order; contents()[i] says what entries()[i] holds. Their ranges count
  /// the tensors' bytes from the first of their file on.
  [[nodiscard]] std::span<const TensorEntry> entries() const noexcept { return entries_; }
  [[nodiscard]] std::span<const TensorEntry> entries_of(const OutputFile& file) const noexcept {
    return entries().subspan(file.begin, file.end - file.begin);
  }
  /// Where entry `entry` begins in its file.
  [[nodiscard]] std::uint64_t file_offset(std::size_t entry) const {
    const OutputFile& file = file_of(entry);
    return file.image.offsets[entry - file.begin];
  }
  [[nodiscard]] const OutputFile& file_of(std::size_t entry) const { return files_[contents_[entry].file]; }
  [[nodiscard]] std::span<const OutputTensor> contents() const noexcept { return contents_; }
  [[nodiscard]] std::span<const QuantizedTensor> quantized() const noexcept { return quantized_; }
  [[nodiscard]] DType stored() const noexcept { return stored_; }
  /// Bytes of all files, without and with their headers.
  [[nodiscard]] std::uint64_t data_bytes() const noexcept;
  [[nodiscard]] std::uint64_t file_bytes() const noexcept;

 private:
  [[nodiscard]] std::vector<std::size_t> arrange(OutputCatalog& catalog, std::uint64_t max_shard_bytes);
  void append(TensorEntry entry, OutputTensor content);
  void take_given(std::span<const Decision> decisions);
  void share_tensor_scales();
  void make_images(const FormatInputs& inputs);

  const Format* format_;
  std::vector<OutputFile> files_;
  std::vector<TensorEntry> entries_;
  std::vector<OutputTensor> contents_;
  std::vector<QuantizedTensor> quantized_;
  DType stored_;
};

/// The text of kIndexName for an output of several files; empty for one.
[[nodiscard]] std::string index_text(const OutputLayout& layout);

}  // namespace halfquad
