#include "tests/unit/sharding/runner_fixture.h"

#include <chrono>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "io/posix_file_system.h"
#include "io/safetensors_header.h"
#include "kernels/decode.h"
#include "kernels/fp8.h"
#include "runtime/checked.h"
#include "sharding/source_model.h"

namespace halfquad::test {
namespace {

ModelLayer layer(std::string module, std::int64_t rows, std::int64_t cols, DType dtype, QuantSpec spec) {
  return {std::move(module), rows, cols, dtype, spec};
}

/// The whole plan as the share of one pipeline, without journal or ranks.
class WholeShare : public WorkShare {
 public:
  WholeShare(const Plan& plan, const OutputLayout& layout, ProgressCounters& progress)
      : queue_(plan, 1, Schedule::kStatic), board_(layout), ledger_(plan, layout), progress_(progress) {
    ledger_.add_constants();
    progress_.tensors_done = ledger_.tensors_done();
  }

  void start(OnDecided on_decided) override { listener_.set(std::move(on_decided)); }
  void finish() override { listener_.set({}); }

  [[nodiscard]] std::optional<ItemRange> next() override {
    const std::lock_guard lock(mutex_);
    return queue_.next(0);
  }

  void add_first_passes(FirstPasses passes) override {
    std::vector<DecidedTensor> decided;
    {
      const std::lock_guard lock(mutex_);
      decided = board_.add(std::move(passes));
    }
    for (const DecidedTensor& one : decided) tell(one);
  }

  void done(ItemRecord record) override {
    const std::lock_guard lock(mutex_);
    ledger_.add(record);
    progress_.tensors_done = ledger_.tensors_done();
  }

  /// After the pipeline has ended.
  [[nodiscard]] const Ledger& ledger() const noexcept { return ledger_; }

 protected:
  virtual void tell(const DecidedTensor& one) { listener_.tell(one.tensor, one.decision); }
  DecisionListener listener_;

 private:
  std::mutex mutex_;
  WorkQueue queue_;
  DecisionBoard board_;
  Ledger ledger_;
  ProgressCounters& progress_;
};

/// The same as a rank has it that waits for others: items come in some order and not at once, decisions late, and
/// results are not taken at once either.
class SlowShare final : public WholeShare, public OutputSink {
 public:
  SlowShare(const Plan& plan, const OutputLayout& layout, const SlowOrder& slow, OutputSink& sink,
            ProgressCounters& progress)
      : WholeShare(plan, layout, progress),
        sink_(sink),
        order_(slow.items.begin(), slow.items.end()),
        random_(slow.seed) {}

  [[nodiscard]] std::optional<ItemRange> next() override {
    std::this_thread::sleep_for(at_once_or_in(40));
    const std::lock_guard lock(mutex_);
    if (order_.empty()) return {};
    const std::size_t item = order_.front();
    order_.pop_front();
    return ItemRange{item, item + 1};
  }

  void write(std::span<const OutputPiece> pieces) override {
    std::this_thread::sleep_for(at_once_or_in(20));
    sink_.write(pieces);
  }

 private:
  void tell(const DecidedTensor& one) override {
    const auto when = at_once_or_in(60);
    const std::lock_guard lock(mutex_);
    tellers_.push_back(std::async(std::launch::async, [this, one, when] {
      std::this_thread::sleep_for(when);
      listener_.tell(one.tensor, one.decision);
    }));
  }

  [[nodiscard]] std::chrono::milliseconds at_once_or_in(int milliseconds) {
    const std::lock_guard lock(mutex_);
    return std::chrono::milliseconds(random_() % 2 == 0 ? 0 : milliseconds);
  }

  OutputSink& sink_;
  std::mutex mutex_;
  std::deque<std::size_t> order_;
  std::mt19937 random_;
  std::vector<std::future<void>> tellers_;  // first to be destroyed
};

/// The layers with heavy_weights().
std::vector<TestTensor> tensors_of(const std::vector<ModelLayer>& layers) {
  std::vector<TestTensor> tensors;
  for (const ModelLayer& layer : layers) {
    const std::string name = layer.module + ".weight";
    tensors.push_back(
        {name, layer.dtype, {layer.rows, layer.cols}, heavy_weights(name, layer.dtype, layer.rows * layer.cols)});
  }
  return tensors;
}

}  // namespace

RunnerModel::RunnerModel(const std::vector<ModelLayer>& layers, const std::vector<TestTensor>& kept, DType stored,
                         std::uint64_t max_shard_bytes)
    : fs_(make_posix_file_system()), source_(tensors_of(layers)) {
  source_.insert(source_.end(), kept.begin(), kept.end());
  write_and_open(layers, stored, max_shard_bytes);
}

RunnerModel::RunnerModel(const std::vector<ModelLayer>& layers, const Format& format)
    : fs_(make_posix_file_system()), source_(tensors_of(layers)) {
  write_and_open(layers, format.scale_dtypes().front(), OutputLayout::kOneFile, format);
}

RunnerModel::RunnerModel(const std::vector<ModelLayer>& layers, const std::vector<std::string>& bytes, DType stored)
    : fs_(make_posix_file_system()) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    source_.push_back({layers[i].module + ".weight", layers[i].dtype, {layers[i].rows, layers[i].cols}, bytes.at(i)});
  }
  write_and_open(layers, stored, OutputLayout::kOneFile);
}

void RunnerModel::write_and_open(const std::vector<ModelLayer>& layers, DType stored, std::uint64_t max_shard_bytes,
                                 const Format& format) {
  std::filesystem::create_directory(temp_.path() / "model");
  put_safetensors(source_path(), source_);
  checkpoint_ = std::make_unique<Checkpoint>(open_source(*fs_, source_path()));
  const std::vector<Decision> decisions = decisions_for(*checkpoint_, layers);
  layout_ = std::make_unique<OutputLayout>(*checkpoint_, decisions, stored, max_shard_bytes, format);
  plan_ = make_plan(*checkpoint_, *layout_);
}

std::vector<float> RunnerModel::weights_of(const QuantizedTensor& tensor) const {
  const TestTensor& source = source_[tensor.source];
  std::vector<float> weights(static_cast<std::size_t>(tensor.rows * tensor.cols));
  decode_to_f32(reinterpret_cast<const std::byte*>(source.bytes.data()), source.dtype,
                static_cast<std::int64_t>(weights.size()), weights.data());
  return weights;
}

Ran RunnerModel::run(const RunOptions& options, FileSystem* faulty, const StopFlag* stop) const {
  const StopFlag never;
  ProgressCounters progress;
  WholeShare share(plan_, *layout_, progress);
  FileSystem& fs = faulty != nullptr ? *faulty : *fs_;
  Ran ran;
  {
    WeightFiles files(fs, made_folder(), *layout_, WriteMode::kBuffered);
    static_cast<PipelineStats&>(ran.result) = run_share(fs, *checkpoint_, *layout_, plan_, files, options, {}, share,
                                                        progress, stop != nullptr ? *stop : never);
  }
  finish(ran, share.ledger(), progress);
  return ran;
}

Ran RunnerModel::run_slowly(const SlowOrder& slow, const RunOptions& options, const StopFlag& stop) const {
  ProgressCounters progress;
  Ran ran;
  WeightFiles files(*fs_, made_folder(), *layout_, WriteMode::kBuffered);
  SlowShare share(plan_, *layout_, slow, files, progress);
  static_cast<PipelineStats&>(ran.result) =
      run_share(*fs_, *checkpoint_, *layout_, plan_, share, options, {}, share, progress, stop);
  finish(ran, share.ledger(), progress);
  return ran;
}

std::filesystem::path RunnerModel::made_folder() const {
  std::filesystem::create_directory(temp_.path() / "out");
  return temp_.path() / "out";
}

void RunnerModel::finish(Ran& ran, const Ledger& ledger, const ProgressCounters& progress) const {
  ran.result.tensors = ledger.tensors();
  ran.result.checksums = ledger.checksums();
  ran.file = written(temp_.path() / "out");
  ran.source_bytes_done = progress.source_bytes_done;
  ran.tensors_done = progress.tensors_done;
  ran.weights_done = progress.weights_done;
}

std::string RunnerModel::written(const std::filesystem::path& folder) const {
  std::string all;
  for (const OutputFile& file : layout_->files()) all += get_file(folder / file.name);
  return all;
}

std::string_view RunnerModel::tensor_bytes(std::string_view file, const TensorEntry& entry) {
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  return file.substr(sizeof header_bytes + header_bytes + entry.begin, entry.bytes());
}

std::string heavy_weights(const std::string& name, DType dtype, std::int64_t count) {
  std::uint64_t state = std::hash<std::string>{}(name);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const float uniform = static_cast<float>(state >> 40U) * 0x1p-23F - 1.0F;
    value = 0.02F * uniform / (1.02F - std::abs(uniform));
  }
  std::string bytes(values.size() * static_cast<std::size_t>(bytes_of(dtype)), '\0');
  if (dtype == DType::kF64) {
    const std::vector<double> wide(values.begin(), values.end());
    std::memcpy(bytes.data(), wide.data(), bytes.size());
  } else if (dtype == DType::kF8E4M3) {
    for (std::size_t i = 0; i < values.size(); ++i) bytes[i] = static_cast<char>(f32_to_e4m3(values[i] * 400));
  } else {
    encode_from_f32(values.data(), dtype, count, reinterpret_cast<std::byte*>(bytes.data()));
  }
  return bytes;
}

std::vector<ModelLayer> small_layers() {
  using enum CodeWidth;
  return {
      layer("a.k8", 48, 128, DType::kBF16, {.width = k8}),
      layer("a.k6", 48, 128, DType::kF16, {.width = k6, .iters = 7}),
      layer("a.k5", 33, 64, DType::kF32, {.width = k5, .group_size = 32}),
      layer("a.k4", 1100, 128, DType::kBF16, {.width = k4, .round_zero = true}),
      layer("a.k3", 47, 192, DType::kF64, {.width = k3}),
      layer("a.k2", 64, 64, DType::kF16, {.width = k2, .group_size = 16}),
      layer("a.k1_58", 64, 64, DType::kBF16, {.width = k1_58}),
      layer("a.k1", 64, 128, DType::kF32, {.width = k1, .group_size = 8, .iters = 1}),
      layer("b.columns4", 128, 1090, DType::kF32, {.width = k4, .axis = 0}),
      layer("b.columns3", 128, 60, DType::kBF16, {.width = k3, .axis = 0}),
      layer("b.columns1", 64, 96, DType::kF16, {.width = k1, .axis = 0, .solver = SolverKind::kRtn}),
      layer("b.whole_columns", 80, 50, DType::kF64, {.width = k2, .group_size = 0, .axis = 0}),
      layer("c.whole_rows", 40, 770, DType::kBF16, {.width = k4, .group_size = 0}),
      layer("c.rtn", 100, 128, DType::kF32, {.width = k4, .solver = SolverKind::kRtn}),
      layer("c.tensor", 64, 100, DType::kBF16, {.width = k4, .channel_wise = false, .round_zero = true}),
      layer("c.tensor3", 23, 100, DType::kF64, {.width = k3, .channel_wise = false}),
  };
}

std::vector<ModelLayer> large_layers() {
  using enum CodeWidth;
  return {
      layer("l.k4", 2400, 5120, DType::kBF16, {.width = k4, .round_zero = true}),  // three tiles of two slabs
      layer("l.k3", 1300, 4096, DType::kF16, {.width = k3, .iters = 5}),
      layer("l.columns", 1100, 4096, DType::kBF16, {.width = k2, .axis = 0, .iters = 6}),
      layer("l.tensor", 1100, 4096, DType::kF16, {.width = k8, .channel_wise = false}),
      // Three tiles that stop while zeros still move: the shrinkage is at work in most groups.
      layer("l.stops", 3072, 4096, DType::kBF16, {.width = k2, .beta = 4}),
      layer("l.rtn", 1100, 4096, DType::kBF16, {.width = k1, .solver = SolverKind::kRtn}),
  };
}

std::vector<ModelLayer> coded_layers() {
  using enum CodeWidth;
  return {
      layer("f.k4", 2400, 2048, DType::kF8E4M3, {.width = k4}),  // two tiles of two slabs
      layer("f.k3", 100, 192, DType::kF8E4M3, {.width = k3, .iters = 5}),
      layer("f.als", 2400, 2048, DType::kF8E4M3, {.width = k4, .solver = SolverKind::kAls}),
      layer("f.rtn", 64, 320, DType::kF8E4M3, {.width = k8, .group_size = 40, .solver = SolverKind::kRtn}),
      layer("f.tensor", 64, 100, DType::kF8E4M3, {.width = k4, .channel_wise = false}),
      layer("f.columns", 128, 100, DType::kF8E4M3, {.width = k4, .axis = 0}),
  };
}

std::vector<TestTensor> scales_of(const std::vector<ModelLayer>& layers) {
  std::vector<TestTensor> scales;
  for (const ModelLayer& layer : layers) {
    const std::vector<std::int64_t> shape = {ceil_div<std::int64_t>(layer.rows, 128),
                                             ceil_div<std::int64_t>(layer.cols, 128)};
    std::vector<float> values;
    for (std::int64_t i = 0; i < shape[0] * shape[1]; ++i) values.push_back(0x1p-9F + static_cast<float>(i) * 0x1p-17F);
    scales.push_back(f32_tensor(layer.module + ".weight_scale_inv", shape, values));
  }
  return scales;
}

std::vector<TestTensor> kept_tensors() {
  return {
      random_tensor("kept.blocks", DType::kU8, {3, (8 << 20) / 2 - 5}),
      random_tensor("kept.empty", DType::kF32, {0, 4}),
      random_tensor("kept.norm", DType::kBF16, {129}),
      random_tensor("kept.scalar", DType::kI64, {}),
  };
}

RunOptions run_options(int threads, std::uint64_t memory_bytes, std::function<std::unique_ptr<Solver>()> make_solver) {
  RunOptions options;
  options.threads = threads;
  options.memory_bytes = memory_bytes;
  options.read_mode = ReadMode::kBuffered;
  options.make_solver = make_solver ? std::move(make_solver) : [] { return make_simd_solver(); };
  return options;
}

}  // namespace halfquad::test
