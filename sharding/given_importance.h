#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "io/importance_file.h"
#include "sharding/importance_names.h"
#include "sharding/rules.h"

namespace halfquad {

/// The importance of columns that a file gives, layer by layer. Vectors are read when a layer is solved, and few are
/// kept in memory.
///
/// An entry is a layer's when it is called as the layer's tensor or module, or when both have the same GGUF name
/// (gguf_input_name); else one of a layer that takes the same inputs does. An expert takes its row of an entry for all
/// experts, or the only row.
class GivenImportance {
 public:
  /// Reads the file once for its checksum.
  explicit GivenImportance(ImportanceFile file);
  /// Throws what ImportanceFile::open() does.
  GivenImportance(FileSystem& fs, const std::filesystem::path& path);

  /// Finds the entries of the layers that want them (Importance::kFile); those without one, or with one that was
  /// measured on no token, become Decision::unmeasured. Throws kBadInput naming the entry: a value that is negative or
  /// not finite, or another number of values than the layer has inputs; and when no layer has any.
  void assign(const Checkpoint& checkpoint, std::span<Decision> decisions);

  /// One weight for each column of the layer that comes from tensor `source`. Thread-safe.
  /// @pre It has an entry.
  [[nodiscard]] std::shared_ptr<const std::vector<float>> weights_of(std::size_t source, double power) const;

  [[nodiscard]] const ImportanceFile& file() const noexcept { return file_; }
  [[nodiscard]] const std::string& digest() const noexcept { return digest_; }
  [[nodiscard]] std::size_t layers() const noexcept { return rows_.size(); }  ///< That have an entry.
  /// Names of the tensors whose layers wanted an entry and have none.
  [[nodiscard]] std::span<const std::string> missing() const noexcept { return missing_; }

 private:
  /// The values of one layer.
  struct Row {
    std::size_t entry = 0;
    std::int64_t index = 0;  ///< Among the entry's rows.
    std::int64_t cols = 0;
  };
  struct Remembered {
    std::size_t source = 0;
    std::shared_ptr<const std::vector<float>> weights;
  };
  static constexpr std::size_t kRemembered = 16;

  void index_entries();
  void count_experts(const Checkpoint& checkpoint);
  [[nodiscard]] std::optional<Row> find(const SourceTensor& tensor);
  [[nodiscard]] std::optional<std::size_t> find_entry(const InputName& name) const;
  [[nodiscard]] std::optional<Row> row_of(std::size_t entry, const SourceTensor& tensor,
                                          const std::optional<InputName>& name);
  [[nodiscard]] bool has_data(const Row& row);
  [[nodiscard]] std::vector<float> values(std::size_t entry, std::int64_t first, std::int64_t count) const;

  ImportanceFile file_;
  std::string digest_;
  std::map<std::string, std::size_t, std::less<>> by_name_;                           // entries
  std::map<std::string, std::map<std::int64_t, std::size_t>, std::less<>> by_layer_;  // by GGUF name and expert
  std::map<std::string, std::int64_t, std::less<>> experts_;                          // of the model, by GGUF name
  std::map<std::size_t, std::vector<bool>> checked_;  // of entries: which rows hold something
  std::map<std::size_t, Row> rows_;                   // by source tensor
  std::vector<std::string> missing_;
  mutable std::mutex mutex_;  // guards all below
  mutable std::array<Remembered, kRemembered> remembered_;
  mutable std::size_t oldest_ = 0;
};

}  // namespace halfquad
