#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "io/byte_range.h"
#include "io/file_system.h"
#include "runtime/dtype.h"

namespace halfquad {

/// Where a tensor lies whose elements are stored as codes of one byte, in their order and without gaps, each to be
/// multiplied by a scale out of a row-major grid: one for a block of block_rows x block_cols elements.
struct ScaledCodes {
  DType dtype = DType::kF8E4M3;  ///< F8_E4M3, F8_E5M2 or I8.
  int file = 0;                  ///< Index into Checkpoint::files().
  std::uint64_t offset = 0;      ///< Of the first code, from the start of that file.
  DType scale_dtype = DType::kF32;
  int scale_file = 0;
  std::uint64_t scale_offset = 0;
  std::int64_t cols = 0;  ///< Of the tensor.
  std::int64_t block_rows = 1, block_cols = 1;
};

/// How the elements of a tensor are got from what a checkpoint stores, where they are not simply there.
class TensorDecoder {
 public:
  virtual ~TensorDecoder() = default;
  /// `range` of the decoded tensor's bytes, to `out`. `files`: those of the checkpoint, open. `scratch`: page-aligned;
  /// 4 MiB and ReadFile::kSlack are enough for rows of 100,000 elements. Thread-safe. Throws kOutOfMemory when a single
  /// row does not fit.
  virtual void read(std::span<const std::unique_ptr<ReadFile>> files, const ByteRange& range,
                    std::span<std::byte> scratch, std::byte* out) const = 0;
  /// Bytes of the files, codes and scales and all, for each byte of the decoded tensor.
  [[nodiscard]] virtual double stored_per_byte() const noexcept = 0;
  /// Where the codes are, if they lie so, for whoever decodes them himself; nothing for anything else.
  [[nodiscard]] virtual std::optional<ScaledCodes> scaled_codes() const { return std::nullopt; }
};

/// One tensor of a checkpoint and where its bytes lie.
struct SourceTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  int file = 0;              ///< Index into Checkpoint::files().
  std::uint64_t offset = 0;  ///< From the start of that file.
  std::uint64_t bytes = 0;

  /// Null: elements of `dtype` at `offset`.
  std::shared_ptr<const TensorDecoder> decoder = nullptr;
  std::optional<DType> kept_as = std::nullopt;  ///< Dtype of an unquantized copy, where it is not `dtype`.

  [[nodiscard]] std::int64_t elements() const noexcept;
  /// Bytes of the files that `decoded` of its bytes are read from: as many, where they are simply there.
  [[nodiscard]] std::uint64_t stored_bytes(std::uint64_t decoded) const noexcept;
  [[nodiscard]] std::uint64_t stored_bytes() const noexcept { return stored_bytes(bytes); }
};

struct SourceFile {
  std::string name;  ///< Relative to the checkpoint's directory.
  std::filesystem::path path;
  std::uint64_t bytes = 0;
  std::uint64_t header_digest = 0;  ///< XXH3-64 of the header bytes; PyTorch: of all that describes the tensors.
};

struct GgufHeader;

/// A Hugging Face directory (config.json, weight files, an index) or a single weight file: safetensors, or, where there
/// are none, PyTorch's pytorch_model*.bin or a *.bin, *.pt or *.pth that holds a state dict. The constructor reads and
/// validates every header; nothing of the weights is touched.
class Checkpoint {
 public:
  /// Throws kIo for what cannot be read, kBadInput for what is malformed: an index that names files outside the
  /// directory, tensors the files do not hold, files the index leaves out, a name in two files, a link loop, ...
  Checkpoint(FileSystem& fs, const std::filesystem::path& path);

  /// Files of another container, whose tensors are known already.
  [[nodiscard]] static Checkpoint of_parts(std::vector<SourceFile> files, bool is_single_file,
                                           std::vector<SourceTensor> tensors,
                                           std::optional<boost::json::object> config);
  /// The same of a GGUF model, whose settings are in `header`; it may say of tensors that they are parts of one of its
  /// own.
  [[nodiscard]] static Checkpoint of_gguf(std::vector<SourceFile> files, bool is_single_file,
                                          std::vector<SourceTensor> tensors, std::shared_ptr<const GgufHeader> header);
  /// The same files with other tensors, and another config.
  [[nodiscard]] Checkpoint with_tensors(std::vector<SourceTensor> tensors,
                                        std::optional<boost::json::object> config) const;

  /// The same tensors of the same files, as a model in `folder`: that one's side files go along. Nothing changes when
  /// it is no directory.
  [[nodiscard]] Checkpoint beside(FileSystem& fs, const std::filesystem::path& folder) const;

  /// By (file, offset). Tied tensors of a PyTorch file share their bytes.
  [[nodiscard]] std::span<const SourceTensor> tensors() const noexcept { return tensors_; }
  [[nodiscard]] const SourceTensor* find(std::string_view name) const noexcept;
  [[nodiscard]] std::span<const SourceFile> files() const noexcept { return files_; }
  /// The directory, or the folder of the single file.
  [[nodiscard]] const std::filesystem::path& directory() const noexcept { return directory_; }
  /// Whether the checkpoint was given as one weight file.
  [[nodiscard]] bool is_single_file() const noexcept { return single_file_; }
  /// config.json as parsed, when there is one.
  [[nodiscard]] const std::optional<boost::json::object>& config() const noexcept { return config_; }
  /// The keys of a GGUF model and the tensors of all its files in their order; null for any other checkpoint.
  [[nodiscard]] const GgufHeader* gguf() const noexcept { return gguf_.get(); }
  /// Small files that belong to the model and go along unchanged (tokenizer, generation_config, licence, README, code,
  /// chat template), names relative to directory(); never weights, indexes or config.json. Empty for a single file.
  [[nodiscard]] std::span<const std::string> side_files() const noexcept { return side_files_; }
  [[nodiscard]] std::uint64_t tensor_bytes() const noexcept;

 private:
  Checkpoint() = default;
  void open_directory(FileSystem& fs);
  void add_file(FileSystem& fs, const std::string& name);
  std::uint64_t add_safetensors(ReadFile& file, const std::string& path);
  std::uint64_t add_torch(ReadFile& file, const std::string& path);
  void open_index(FileSystem& fs, std::string_view index, std::span<const std::string> names);
  void check_against_index(const std::map<std::string, std::string>& weight_map, std::string_view index) const;
  void finish();

  std::filesystem::path directory_;
  bool single_file_ = false;
  std::vector<SourceFile> files_;
  std::vector<SourceTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::optional<boost::json::object> config_;
  std::shared_ptr<const GgufHeader> gguf_;
  std::vector<std::string> side_files_;
};

}  // namespace halfquad
