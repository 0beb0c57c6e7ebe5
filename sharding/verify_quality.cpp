#include "sharding/verify_quality.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/column_errors.h"
#include "sharding/open_checkpoint.h"
#include "sharding/plain_model.h"
#include "sharding/rules.h"
#include "sharding/stored_tile.h"
#include "sharding/verify_report.h"

namespace halfquad {
namespace {

constexpr std::int64_t kPartElements = 1 << 20;
constexpr double kErrorTolerance = 1e-5;  // relative: the report's sums have groups of their own, rounded to fp32

/// One layer to look at again.
struct Looked {
  const RunReport::Layer* reported = nullptr;
  LayerError* error = nullptr;
  PlainTensor plain;
  const SourceTensor* original = nullptr;
  QuantSpec spec;        ///< As it is stored.
  bool nearest = false;  ///< Whether round to nearest is measured.

  [[nodiscard]] bool weighted() const { return reported->importance != Importance::kNone; }
  [[nodiscard]] std::int64_t rows() const { return plain.tensor.shape[0]; }
  [[nodiscard]] std::int64_t cols() const { return plain.tensor.shape[1]; }
  [[nodiscard]] std::int64_t part_rows() const { return std::max<std::int64_t>(1, kPartElements / cols()); }
  [[nodiscard]] std::uint64_t part_bytes() const {
    const auto elements = static_cast<std::uint64_t>(std::min(rows(), part_rows()) * cols());
    return Workspace::cost(elements * static_cast<std::uint64_t>(bytes_of(original->dtype))) +
           3 * Workspace::cost(elements * sizeof(float)) + Workspace::cost(elements);
  }
};

class QualityVerifier {
 public:
  QualityVerifier(FileSystem& fs, const QuantizedModel& output, const RunReport& report, const Checkpoint& source,
                  GivenImportance* importance, const VerifyOptions& options, VerifyResult& result)
      : source_(source),
        importance_(importance),
        options_(options),
        files_(fs, output.checkpoint(), options.read_mode),
        source_files_(fs, source, options.read_mode) {
    std::map<std::string, LayerError*, std::less<>> errors;
    for (LayerError& layer : result.layers) errors[layer.module] = &layer;
    PlainModel model = output.format().keeps_names() ? plain_model(output) : plain_model(output, source);
    for (PlainTensor& plain : model.tensors) {
      const std::string module(module_of(plain.tensor.name));
      const auto reported = report.layers.find(module);
      const auto error = errors.find(module);
      const SourceTensor* original = source.find(plain.tensor.name);
      if (!plain.layer || reported == report.layers.end() || error == errors.end() || original == nullptr) continue;
      if (reported->second.importance == Importance::kFile && importance == nullptr) continue;
      const QuantSpec& spec = output.layers()[*plain.layer].spec;
      const bool nearest = reported->second.solver == "hqq" && spec.axis == 1 && spec.channel_wise &&
                           plain.tensor.shape[1] % group_elems(spec, plain.tensor.shape[1]) == 0;
      if (!nearest && reported->second.importance == Importance::kNone) continue;
      layers_.push_back({&reported->second, error->second, std::move(plain), original, spec, nearest});
    }
    if (importance != nullptr) assign_importance();
  }

  void run(const StopFlag& stop, VerifyResult& result) {
    if (layers_.empty()) return;
    std::uint64_t most = 0;
    for (const Looked& layer : layers_) most = std::max(most, layer.part_bytes());
    const WorkerBuffers buffers(options_.threads, Workspace::cost(OpenCheckpoint::kScratchBytes) + most,
                                options_.memory_bytes);
    parallel_for(buffers.workers(), static_cast<std::int64_t>(layers_.size()), stop,
                 [&](int worker, std::int64_t index) {
                   look(layers_[static_cast<std::size_t>(index)], buffers.of(worker), stop);
                 });
    for (const Looked& layer : layers_) compare_with_report(layer, result);
  }

 private:
  static std::int64_t group_elems(const QuantSpec& spec, std::int64_t cols) {
    return spec.group_size == 0 ? cols : spec.group_size;
  }

  void assign_importance() {
    std::vector<Decision> decisions;
    for (const Looked& layer : layers_) {
      if (layer.reported->importance != Importance::kFile) continue;
      Decision& decision = decisions.emplace_back();
      decision.source = static_cast<std::size_t>(layer.original - source_.tensors().data());
      decision.spec = {.solver = SolverKind::kAls, .importance = Importance::kFile};
    }
    importance_->assign(source_, decisions);
    const std::span<const std::string> missing = importance_->missing();
    HALFQUAD_REQUIRE(missing.empty(), kUsage,
                     fmt::format("--importance: {} has no entry for {}, which was weighted by a file; give that one",
                                 quoted(importance_->file().name()), quoted(missing.empty() ? "" : missing.front())));
  }

  void look(Looked& layer, std::span<std::byte> buffer, const StopFlag& stop) {
    Workspace workspace(buffer);
    const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    const auto most = static_cast<std::uint64_t>(std::min(layer.rows(), layer.part_rows()) * layer.cols());
    const auto floats = [&] { return reinterpret_cast<float*>(workspace.take(most * sizeof(float)).data()); };
    std::byte* const bytes = workspace.take(most * static_cast<std::uint64_t>(bytes_of(layer.original->dtype))).data();
    float* const weights = floats();
    float* const restored = floats();
    std::byte* const grids = workspace.take(most * sizeof(float)).data();
    auto* const codes = reinterpret_cast<std::uint8_t*>(workspace.take(most).data());
    const SourceTensor stored = as_weights(layer.plain);
    const std::unique_ptr<Solver> solver = options_.make_solver();
    ColumnErrors columns(layer.cols());
    SolveStats nearest;
    for (std::int64_t row = 0; row < layer.rows() && !stop.requested(); row += layer.part_rows()) {
      const std::int64_t count = std::min(layer.part_rows(), layer.rows() - row) * layer.cols();
      const auto range = [&](DType dtype) {
        const auto element = static_cast<std::uint64_t>(bytes_of(dtype));
        return ByteRange{static_cast<std::uint64_t>(row * layer.cols()) * element,
                         static_cast<std::uint64_t>(count) * element};
      };
      const ByteRange of_source = range(layer.original->dtype);
      source_files_.gather(*layer.original, {&of_source, 1}, scratch, bytes);
      static_cast<void>(zero_nonfinite(bytes, layer.original->dtype, count));
      decode_to_f32(bytes, layer.original->dtype, count, weights);
      if (layer.weighted()) {
        const ByteRange of_output = range(DType::kF32);
        files_.gather(stored, {&of_output, 1}, scratch, reinterpret_cast<std::byte*>(restored));
        const auto size = static_cast<std::size_t>(count);
        columns.add({weights, size}, {restored, size}, 0);
      }
      if (layer.nearest)
        round_to_nearest(layer, *solver, {weights, static_cast<std::size_t>(count)}, grids, codes, nearest);
    }
    if (layer.nearest) {
      const double signal = nearest.final_error.weight2.value();
      if (signal > 0) layer.error->nearest = std::sqrt(nearest.final_error.square.value() / signal);
    }
    if (layer.reported->importance == Importance::kWeights) {
      layer.error->weighted = columns.weighted_by_themselves(layer.rows(), layer.reported->importance_power);
    } else if (layer.reported->importance == Importance::kFile) {
      const auto index = static_cast<std::size_t>(layer.original - source_.tensors().data());
      layer.error->weighted = columns.weighted_by(*importance_->weights_of(index, layer.reported->importance_power));
    }
  }

  static SourceTensor as_weights(const PlainTensor& plain) {
    SourceTensor stored = plain.tensor;
    if (!plain.joined) return stored;
    JoinedTensor joined = *plain.joined;
    joined.dtype = DType::kF32;
    stored.dtype = DType::kF32;
    stored.decoder = joined_decoder(std::move(joined));
    return stored;
  }

  /// `grids` and `codes` have room for as many floats and codes as there are weights.
  static void round_to_nearest(const Looked& layer, Solver& solver, std::span<const float> weights, std::byte* grids,
                               std::uint8_t* codes, SolveStats& stats) {
    const std::int64_t elems = group_elems(layer.spec, layer.cols());
    const GroupBlock block{.data = reinterpret_cast<const std::byte*>(weights.data()),
                           .groups = static_cast<std::int64_t>(weights.size()) / elems,
                           .group_elems = elems,
                           .group_stride = elems};
    SolveRequest request;
    request.spec = layer.spec;
    request.spec.solver = SolverKind::kRtn;
    request.stored = DType::kF32;
    request.record = RecordErrors::kNo;
    auto* const scale = reinterpret_cast<float*>(grids);
    std::vector<float> zero(static_cast<std::size_t>(block.groups));
    solver.solve(block, request, {.codes = codes, .group_stride = elems, .scale = scale, .zero = zero.data()}, stats);
  }

  static void compare_with_report(const Looked& layer, VerifyResult& result) {
    const std::optional<double>& found = layer.error->weighted;
    const std::optional<double>& reported = layer.reported->weighted_relative_error;
    if (!found || !reported) return;
    if (std::abs(*found - *reported) <= kErrorTolerance * std::max(*found, *reported)) return;
    result.problems.push_back(
        fmt::format("layer {}: the weighted relative error against this source is {:.9g}, the report says {:.9g}",
                    quoted(layer.error->module), *found, *reported));
  }

  const Checkpoint& source_;
  GivenImportance* importance_;
  const VerifyOptions& options_;
  OpenCheckpoint files_, source_files_;
  std::vector<Looked> layers_;
};

}  // namespace

void verify_quality(FileSystem& fs, const QuantizedModel& output, const boost::json::object& report,
                    const Checkpoint& source, GivenImportance* importance, const VerifyOptions& options,
                    const StopFlag& stop, VerifyResult& result) {
  std::optional<RunReport> parsed;
  try {
    parsed = parse_run_report(report);
  } catch (const Error&) {  // verify_output() says so
    return;
  }
  QualityVerifier(fs, output, *parsed, source, importance, options, result).run(stop, result);
}

}  // namespace halfquad
