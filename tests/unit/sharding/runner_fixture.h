#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "sharding/output_layout.h"
#include "sharding/plan.h"
#include "sharding/runner.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/sharding/model_layer.h"

namespace halfquad::test {

/// What one run of the pipeline left.
struct Ran {
  RunResult result;
  std::string file;  ///< All of the written files, one behind the other.
  std::uint64_t source_bytes_done = 0, tensors_done = 0, weights_done = 0;
};

/// How other ranks make one wait: for items, which come in this order, for decisions, and for room for its results.
struct SlowOrder {
  std::vector<std::size_t> items;  ///< Of the plan: all of them.
  unsigned seed = 1;               ///< Of the times.
};

/// A checkpoint on disk with the plan that belongs to it.
class RunnerModel {
 public:
  /// `stored`: dtype of scales and zeros. Kept tensors follow the layers in the file.
  RunnerModel(const std::vector<ModelLayer>& layers, const std::vector<TestTensor>& kept, DType stored = DType::kF16,
              std::uint64_t max_shard_bytes = OutputLayout::kOneFile);

  /// In another format than hqq's, without kept tensors.
  RunnerModel(const std::vector<ModelLayer>& layers, const Format& format);

  /// The same with other bytes in the layers' tensors (one per layer, in their order).
  RunnerModel(const std::vector<ModelLayer>& layers, const std::vector<std::string>& bytes, DType stored);

  /// Runs the plan; `faulty` instead of the real file system.
  [[nodiscard]] Ran run(const RunOptions& options, FileSystem* faulty = nullptr, const StopFlag* stop = nullptr) const;
  /// The same, slowed down.
  [[nodiscard]] Ran run_slowly(const SlowOrder& slow, const RunOptions& options, const StopFlag& stop) const;

  /// The bytes of an output tensor in a written file.
  [[nodiscard]] static std::string_view tensor_bytes(std::string_view file, const TensorEntry& entry);

  [[nodiscard]] const Checkpoint& checkpoint() const { return *checkpoint_; }
  [[nodiscard]] const OutputLayout& layout() const { return *layout_; }
  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] FileSystem& files() const { return *fs_; }
  [[nodiscard]] const std::vector<TestTensor>& source() const { return source_; }
  /// What a layer is quantized from, [rows * cols].
  [[nodiscard]] std::vector<float> weights_of(const QuantizedTensor& tensor) const;
  /// The weight files in `folder`, one behind the other.
  [[nodiscard]] std::string written(const std::filesystem::path& folder) const;
  [[nodiscard]] std::filesystem::path source_path() const { return temp_.path() / "model" / "model.safetensors"; }

 private:
  [[nodiscard]] std::filesystem::path made_folder() const;
  void finish(Ran& ran, const Ledger& ledger, const ProgressCounters& progress) const;
  void write_and_open(const std::vector<ModelLayer>& layers, DType stored, std::uint64_t max_shard_bytes,
                      const Format& format = hqq_format());

  TempDir temp_;
  std::unique_ptr<FileSystem> fs_;
  std::vector<TestTensor> source_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<OutputLayout> layout_;
  Plan plan_;
};

/// Deterministic weights below 1 in magnitude, most of them around 0.02, a few far out, as `dtype`.
[[nodiscard]] std::string heavy_weights(const std::string& name, DType dtype, std::int64_t count);

/// A small layer of every kind: all widths, packings, dtypes, both axes, whole rows, per tensor, rtn, few steps.
[[nodiscard]] std::vector<ModelLayer> small_layers();
/// Layers of several tiles, of two or more slabs each.
[[nodiscard]] std::vector<ModelLayer> large_layers();
/// Layers of E4M3 codes, and the scales of their blocks of 128 x 128.
[[nodiscard]] std::vector<ModelLayer> coded_layers();
[[nodiscard]] std::vector<TestTensor> scales_of(const std::vector<ModelLayer>& layers);
/// Tensors to copy: of many blocks, a scalar, an empty one, of a dtype that nothing computes with.
[[nodiscard]] std::vector<TestTensor> kept_tensors();

[[nodiscard]] RunOptions run_options(int threads, std::uint64_t memory_bytes,
                                     std::function<std::unique_ptr<Solver>()> make_solver = {});

}  // namespace halfquad::test
