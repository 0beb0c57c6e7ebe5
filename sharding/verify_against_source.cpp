#include <algorithm>
#include <cmath>
#include <deque>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/checked_tensor.h"
#include "sharding/gguf_source.h"
#include "sharding/open_checkpoint.h"
#include "sharding/plain_model.h"
#include "sharding/rules.h"
#include "sharding/stored_tile.h"
#include "sharding/verify.h"
#include "sharding/verify_report.h"

namespace halfquad {
namespace {

constexpr std::int64_t kItemElements = 1 << 20;
constexpr std::int64_t kSumElements = 4096;  // added up in double before they count as a group
// Relative: the report's sums have groups of their own, rounded to fp32.
constexpr double kErrorTolerance = 1e-5;

class SourceVerifier {
 public:
  SourceVerifier(FileSystem& fs, const QuantizedModel& output, const Checkpoint& source, const VerifyOptions& options,
                 ProgressCounters& progress, VerifyResult& result)
      : source_(source),
        model_(plain_model(output, source)),
        progress_(progress),
        result_(result),
        files_(fs, output.checkpoint(), options.read_mode),
        source_files_(fs, source, options.read_mode) {
    std::uint64_t widest = 0;
    for (const PlainTensor& plain : model_.tensors) {
      Checked& checked = checked_.emplace_back();
      checked.plain = &plain;
      checked.original = source.find(plain.tensor.name);
      checked.stored = as_stored(plain);
      widest = std::max(widest, item_bytes(checked));
      add_items(checked);
    }
    buffers_.emplace(options.threads, Workspace::cost(OpenCheckpoint::kScratchBytes) + widest, options.memory_bytes);
  }

  void run(const std::optional<RunReport>& report, const StopFlag& stop) {
    parallel_for(
        buffers_->workers(), static_cast<std::int64_t>(items_.size()), stop,
        [&](int worker, std::int64_t index) { check(items_[static_cast<std::size_t>(index)], buffers_->of(worker)); });
    for (const Checked& checked : checked_) conclude(checked, report);
    const std::size_t missing = source_.tensors().size() - checked_.size();
    if (missing > 0) {
      for (const std::string& note : model_.notes) result_.notes.push_back(note);
      result_.accounts["not in a GGUF file"] += missing;
    }
    if (!report) return;
    for (std::string& other : other_source_files(*report, source_)) result_.problems.push_back(std::move(other));
  }

 private:
  struct Checked {
    const PlainTensor* plain = nullptr;
    const SourceTensor* original = nullptr;
    SourceTensor stored;  ///< What the output has for it, in its order, as F32.
    FirstPlace difference;
    ErrorSums error;
    std::int64_t zeroed = 0;
  };
  struct Item {
    Checked* checked = nullptr;
    std::int64_t begin = 0, count = 0;
  };

  static SourceTensor as_stored(const PlainTensor& plain) {
    SourceTensor stored = plain.tensor;
    if (!plain.joined) return stored;
    JoinedTensor joined = *plain.joined;
    joined.dtype = DType::kF32;
    for (JoinedPart& part : joined.parts) part.add = 0;
    stored.dtype = DType::kF32;
    stored.decoder = joined_decoder(std::move(joined));
    return stored;
  }

  static std::uint64_t item_bytes(const Checked& checked) {
    const auto elements = static_cast<std::uint64_t>(std::min(step_of(checked), checked.plain->tensor.elements()));
    return Workspace::cost(elements * static_cast<std::uint64_t>(bytes_of(checked.original->dtype))) +
           2 * Workspace::cost(elements * sizeof(float));
  }

  /// Elements of an item: whole rows where these are of any length.
  static std::int64_t step_of(const Checked& checked) {
    const std::vector<std::int64_t>& shape = checked.plain->tensor.shape;
    const std::int64_t row = shape.size() == 2 ? shape[1] : 1;
    const std::int64_t rows = kItemElements / row / TileGeometry::kRowStep * TileGeometry::kRowStep;
    return rows > 0 ? rows * row : kItemElements;
  }

  void add_items(Checked& checked) {
    const std::int64_t elements = checked.plain->tensor.elements();
    const std::int64_t step = step_of(checked);
    for (std::int64_t begin = 0; begin < elements; begin += step) {
      items_.push_back({&checked, begin, std::min(step, elements - begin)});
    }
  }

  void check(const Item& item, std::span<std::byte> buffer) {
    Workspace workspace(buffer);
    const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    Checked& checked = *item.checked;
    const SourceTensor& original = *checked.original;
    const auto range = [&](DType dtype) {
      const auto element = static_cast<std::uint64_t>(bytes_of(dtype));
      return ByteRange{static_cast<std::uint64_t>(item.begin) * element,
                       static_cast<std::uint64_t>(item.count) * element};
    };
    const ByteRange of_source = range(original.dtype);
    const auto bytes = workspace.take(of_source.bytes);
    source_files_.gather(original, {&of_source, 1}, scratch, bytes.data());
    std::int64_t zeroed = 0;
    if (checked.plain->layer) zeroed = zero_nonfinite(bytes.data(), original.dtype, item.count);
    const auto floats = [&] {
      return std::span(
          reinterpret_cast<float*>(workspace.take(static_cast<std::uint64_t>(item.count) * sizeof(float)).data()),
          static_cast<std::size_t>(item.count));
    };
    const std::span<float> wanted = floats();
    decode_to_f32(bytes.data(), original.dtype, item.count, wanted.data());
    const std::span<float> found = floats();
    const ByteRange of_output = range(DType::kF32);
    files_.gather(checked.stored, {&of_output, 1}, scratch, reinterpret_cast<std::byte*>(found.data()));
    progress_.bytes_read += of_source.bytes;
    progress_.source_bytes_done += of_source.bytes;

    if (!checked.plain->layer) return compare(item, wanted, found);
    progress_.weights_done += static_cast<std::uint64_t>(item.count);
    const ErrorSums error = errors(wanted, found);
    const std::lock_guard lock(mutex_);
    checked.error.add(error);
    checked.zeroed += zeroed;
  }

  /// Values of the source, with what the format adds, rounded to what it stores.
  static void compare(const Item& item, std::span<const float> wanted, std::span<const float> found) {
    const JoinedTensor& joined = *item.checked->plain->joined;
    const JoinedPart& part = joined.parts.front();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const float value = round_to(part.stored.dtype, wanted[i] + part.add);
      const bool same = value == found[i] || (std::isnan(value) && std::isnan(found[i]));
      if (same) continue;
      const std::int64_t at = item.begin + static_cast<std::int64_t>(i);
      if (joined.holds(at / joined.cols)) return item.checked->difference.add(static_cast<std::uint64_t>(at));
    }
  }

  static ErrorSums errors(std::span<const float> wanted, std::span<const float> found) {
    ErrorSums error;
    for (std::size_t begin = 0; begin < wanted.size(); begin += kSumElements) {
      const std::size_t end = std::min(wanted.size(), begin + kSumElements);
      double sum = 0;
      double square = 0;
      double weight2 = 0;
      float largest = 0;
      for (std::size_t i = begin; i < end; ++i) {
        const float off = wanted[i] - found[i];
        sum += std::abs(static_cast<double>(off));
        square += static_cast<double>(off) * static_cast<double>(off);
        weight2 += static_cast<double>(wanted[i]) * static_cast<double>(wanted[i]);
        largest = std::max(largest, std::abs(off));
      }
      error.add_group(static_cast<float>(sum), static_cast<float>(square), static_cast<float>(weight2), largest);
    }
    return error;
  }

  void conclude(const Checked& checked, const std::optional<RunReport>& report) {
    const std::string name = quoted(checked.plain->tensor.name);
    ++progress_.tensors_done;
    // Blocks of a GGUF source that were kept look like a layer.
    const bool kept_blocks = checked.original->decoder != nullptr && source_.gguf() != nullptr &&
                             checked.error.max_abs == 0 &&
                             !(report && report->layers.contains(module_of(checked.plain->tensor.name)));
    if (!checked.plain->layer || kept_blocks) {
      const KeepReason reason =
          source_.gguf() != nullptr ? gguf_keep_reason(*checked.original) : default_keep_reason(*checked.original, "");
      ++result_.accounts[fmt::format("kept: {}", reason == KeepReason::kNone ? "linear layer" : describe(reason))];
      if (const auto at = checked.difference.offset()) {
        result_.problems.push_back(
            fmt::format("tensor {} was to be kept but differs from the source, first at element {}", name, *at));
      }
      return;
    }
    ++result_.accounts["quantized"];
    const std::string module(module_of(checked.plain->tensor.name));
    const std::int64_t weights = checked.plain->tensor.elements();
    result_.layers.push_back({.module = module, .error = checked.error, .weights = weights});
    if (report) compare_with_report(checked, module, *report);
  }

  void compare_with_report(const Checked& checked, const std::string& module, const RunReport& report) {
    const auto found = report.layers.find(module);
    if (found == report.layers.end()) {
      result_.problems.push_back(
          fmt::format("layer {} is not among the layers of halfquad_report.json", quoted(module)));
      return;
    }
    const RunReport::Layer& reported = found->second;
    const auto agrees = [](double ours, double theirs) {
      return std::abs(ours - theirs) <= kErrorTolerance * std::max(std::abs(ours), std::abs(theirs));
    };
    const double mean_abs = checked.error.abs.value() / static_cast<double>(checked.plain->tensor.elements());
    if (!agrees(mean_abs, reported.mean_abs_error)) {
      result_.problems.push_back(
          fmt::format("layer {}: the mean absolute error against this source is {:.9g}, the report says {:.9g}",
                      quoted(module), mean_abs, reported.mean_abs_error));
    }
    const double signal = checked.error.weight2.value();
    const double relative = signal > 0 ? std::sqrt(checked.error.square.value() / signal) : 0;
    if (reported.relative_error && signal > 0 && !agrees(relative, *reported.relative_error)) {
      result_.problems.push_back(
          fmt::format("layer {}: the relative error against this source is {:.9g}, the report says {:.9g}",
                      quoted(module), relative, *reported.relative_error));
    }
    if (checked.zeroed != reported.zeroed) {
      result_.problems.push_back(fmt::format(
          "layer {}: this source holds {} NaN or infinite weights, the report says that {} were set to zero",
          quoted(module), checked.zeroed, reported.zeroed));
    }
  }

  const Checkpoint& source_;
  PlainModel model_;
  ProgressCounters& progress_;
  VerifyResult& result_;
  OpenCheckpoint files_, source_files_;
  std::deque<Checked> checked_;
  std::vector<Item> items_;
  std::optional<WorkerBuffers> buffers_;
  std::mutex mutex_;
};

}  // namespace

void verify_against_source(FileSystem& fs, const QuantizedModel& output,
                           const std::optional<boost::json::object>& report, const Checkpoint& source,
                           const VerifyOptions& options, ProgressCounters& progress, const StopFlag& stop,
                           VerifyResult& result) {
  std::optional<RunReport> parsed;
  try {
    if (report) parsed = parse_run_report(*report);
  } catch (const Error&) {  // verify_output() says so
  }
  SourceVerifier(fs, output, source, options, progress, result).run(parsed, stop);
}

}  // namespace halfquad
