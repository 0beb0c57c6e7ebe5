#include "sharding/verify.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/checked_tensor.h"
#include "sharding/rules.h"
#include "sharding/shape_text.h"
#include "sharding/stored_tile.h"
#include "sharding/verify_report.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kPieceBytes = 8 << 20;
constexpr double kErrorTolerance = 1e-5;  // relative; both sides add the same group sums exactly
// Dequantized weights beyond this have squares that no fp32 sum holds.
constexpr float kLargestWeight = 1e18F;

std::string kept_text(const SourceTensor& tensor) {
  const KeepReason reason = default_keep_reason(tensor, "");
  return fmt::format("kept: {}", reason == KeepReason::kNone ? "linear layer" : describe(reason));
}

std::string name_in_quotes(const SourceTensor& tensor) { return halfquad::quoted(tensor.name); }

class Verifier {
 public:
  Verifier(FileSystem& fs, const QuantizedModel& output, const Checkpoint* source, const VerifyOptions& options,
           ProgressCounters& progress)
      : output_(output),
        source_(source),
        options_(options),
        progress_(progress),
        files_(fs, output.checkpoint(), options.read_mode) {
    if (source != nullptr) source_files_.emplace(fs, *source, options.read_mode);
    for (const SourceTensor& tensor : output.checkpoint().tensors()) {
      CheckedTensor& checked = tensors_.emplace_back();
      checked.tensor = &tensor;
      checked.blocks = {tensor.bytes, tensor.bytes, tensor.bytes};  // one block: what a key of a few bytes has
    }
    for (const StoredLayer& layer : output.layers()) {
      const std::int64_t stored_bytes = bytes_of(layer.stored);
      tensors_[layer.codes].blocks = layer.tiles.code_blocks();
      add_grid(layer.scale, layer.tiles.scale_blocks(stored_bytes));
      add_grid(layer.zero, layer.tiles.zero_blocks(stored_bytes));
    }
    for (const std::size_t plain : output.plain()) {
      tensors_[plain].blocks = copy_blocks(output.checkpoint().tensors()[plain].bytes);
      tensors_[plain].is_plain = true;
    }
  }

  void use_report(const boost::json::object& report);
  void compare_names_with_source();
  void check_bytes(const StopFlag& stop);
  void measure_layers(const StopFlag& stop);

  VerifyResult result() && {
    result_.bytes_read = bytes_read_;
    return std::move(result_);
  }

 private:
  /// One layer while its error is measured.
  struct MeasuredLayer {
    const StoredLayer* layer;
    const SourceTensor* original;
    ErrorSums error;
    std::int64_t zeroed = 0;
    bool finite = true;  ///< No NaN or infinity in the grid, which would leave no error to speak of.
    bool too_large = false;
  };
  struct MeasuredTile {
    MeasuredLayer* measured;
    std::int64_t tile;
  };

  template <class... Args>
  void problem(fmt::format_string<Args...> text, Args&&... args) {
    result_.problems.push_back(fmt::format(text, std::forward<Args>(args)...));
  }

  void add_grid(std::size_t tensor, const BlockLayout& blocks) {
    if (tensor == StoredLayer::kNoTensor) return;
    tensors_[tensor].blocks = blocks;
    tensors_[tensor].is_grid = is_float_source(tensors_[tensor].tensor->dtype);
  }
  void use_reported_checksums();
  void compare_layer_with_report(const StoredLayer& layer);
  const SourceTensor* original_of(const StoredLayer& layer);
  std::vector<CheckedPiece> pieces();
  void check_piece(const CheckedPiece& piece, std::span<std::byte> buffer);
  std::span<const std::byte> wanted_bytes(const CheckedTensor& checked, const CheckedPiece& piece, Workspace& workspace,
                                          std::span<std::byte> scratch);
  [[nodiscard]] static std::uint64_t piece_workspace(const CheckedPiece& piece);
  void conclude(const CheckedTensor& checked);
  std::uint64_t tile_workspace(const MeasuredLayer& measured) const;
  [[nodiscard]] bool has_finite_grid(const StoredLayer& layer) const;
  void measure_tile(const MeasuredTile& item, Solver& solver, std::span<std::byte> buffer);
  void conclude(const MeasuredLayer& measured);
  void count(std::uint64_t bytes) {
    bytes_read_ += bytes;
    progress_.bytes_read += bytes;
  }

  const QuantizedModel& output_;
  const Checkpoint* source_;
  const VerifyOptions& options_;
  ProgressCounters& progress_;
  OpenCheckpoint files_;
  std::optional<OpenCheckpoint> source_files_;
  std::optional<RunReport> report_;
  std::deque<CheckedTensor> tensors_;  // a deque: neither movable nor in need of it
  std::deque<MeasuredLayer> measured_;
  std::mutex mutex_;
  std::atomic<std::uint64_t> bytes_read_{0};
  VerifyResult result_;
};

// ---- the report

void Verifier::use_report(const boost::json::object& report) {
  try {
    report_ = parse_run_report(report);
  } catch (const Error& error) {
    problem("{}", error.what());
    return;
  }
  use_reported_checksums();
  for (const StoredLayer& layer : output_.layers()) {
    if (output_.format().keeps_names()) compare_layer_with_report(layer);
  }
  if (source_ == nullptr) return;
  for (std::string& other : other_source_files(*report_, *source_)) result_.problems.push_back(std::move(other));
}

bool could_be_rows(const RunReport::Tensor& reported, std::uint64_t bytes) {
  return reported.run_bytes > 0 && bytes % reported.run_bytes == 0 && reported.block_bytes > 0 &&
         reported.block_bytes <= kCopyBlockBytes;
}

void Verifier::use_reported_checksums() {
  for (CheckedTensor& checked : tensors_) {
    const auto found = report_->tensors.find(checked.tensor->name);
    if (found == report_->tensors.end()) {
      problem("tensor {} is not in halfquad_report.json: it was added later", name_in_quotes(*checked.tensor));
      continue;
    }
    const RunReport::Tensor& reported = found->second;
    // A tensor that was converted is cut as its rows are.
    if ((checked.is_plain || !output_.format().keeps_names()) && could_be_rows(reported, checked.tensor->bytes)) {
      checked.blocks = {checked.tensor->bytes, reported.run_bytes, reported.block_bytes};
    }
    if (reported.run_bytes != checked.blocks.run_bytes || reported.block_bytes != checked.blocks.block_bytes) {
      problem("tensor {}: the report's checksum blocks (runs of {}, blocks of {} bytes) are not those of this shape",
              name_in_quotes(*checked.tensor), reported.run_bytes, reported.block_bytes);
      continue;
    }
    checked.digest.emplace(checked.blocks);
    checked.reported = reported.xxh3;
  }
  for (const auto& [name, unused] : report_->tensors) {
    if (output_.checkpoint().find(name) == nullptr) {
      problem("tensor {} of halfquad_report.json is missing from the output", halfquad::quoted(name));
    }
  }
}

void Verifier::compare_layer_with_report(const StoredLayer& layer) {
  const auto found = report_->layers.find(layer.module);
  if (found == report_->layers.end()) {
    problem("layer {} is not among the layers of halfquad_report.json", halfquad::quoted(layer.module));
    return;
  }
  const RunReport::Layer& reported = found->second;
  const bool same = reported.rows == layer.rows && reported.cols == layer.cols &&
                    reported.bits == name_of(layer.spec.width) && reported.axis == layer.spec.axis &&
                    reported.group_size == layer.tiles.grouped().group_elems;
  if (!same) {
    problem("layer {} is stored with {} bits, group size {}, axis {}, shape {}, not as halfquad_report.json says",
            halfquad::quoted(layer.module), name_of(layer.spec.width), layer.tiles.grouped().group_elems,
            layer.spec.axis, shape_text(std::array{layer.rows, layer.cols}));
  }
}

// ---- names

void Verifier::compare_names_with_source() {
  for (const std::size_t index : output_.plain()) {
    CheckedTensor& checked = tensors_[index];
    const SourceTensor* original = source_->find(checked.tensor->name);
    if (original == nullptr) {
      problem("tensor {} of the output is not in the source", name_in_quotes(*checked.tensor));
    } else if (original->kept_as.value_or(original->dtype) != checked.tensor->dtype ||
               original->shape != checked.tensor->shape) {
      problem("tensor {} is {} of shape {} but {} of shape {} in the source", name_in_quotes(*checked.tensor),
              name_of(checked.tensor->dtype), shape_text(checked.tensor->shape), name_of(original->dtype),
              shape_text(original->shape));
    } else {
      checked.original = original;
      ++result_.accounts[kept_text(*original)];
    }
  }
  std::vector<bool> used(source_->tensors().size());
  for (const StoredLayer& layer : output_.layers()) {
    if (const SourceTensor* original = original_of(layer)) {
      measured_.push_back({.layer = &layer, .original = original, .error = {}});
      ++result_.accounts["quantized"];
    }
    const SourceTensor* named = source_->find(layer.module + ".weight");
    if (named != nullptr) used[static_cast<std::size_t>(named - source_->tensors().data())] = true;
  }
  for (std::size_t i = 0; i < used.size(); ++i) {
    const SourceTensor& tensor = source_->tensors()[i];
    if (!used[i] && output_.checkpoint().find(tensor.name) == nullptr) {
      problem("tensor {} of the source is missing from the output", name_in_quotes(tensor));
    }
  }
}

const SourceTensor* Verifier::original_of(const StoredLayer& layer) {
  const std::string name = layer.module + ".weight";
  const SourceTensor* original = source_->find(name);
  if (original == nullptr) {
    problem("layer {}: the source has no tensor {}", halfquad::quoted(layer.module), halfquad::quoted(name));
    return nullptr;
  }
  const std::array shape{layer.rows, layer.cols};
  if (!std::equal(shape.begin(), shape.end(), original->shape.begin(), original->shape.end()) ||
      !is_float_source(original->dtype)) {
    problem("layer {} has shape {} but tensor {} of the source is {} of shape {}", halfquad::quoted(layer.module),
            shape_text(shape), halfquad::quoted(name), name_of(original->dtype), shape_text(original->shape));
    return nullptr;
  }
  return original;
}

// ---- bytes

std::vector<CheckedPiece> Verifier::pieces() {
  std::vector<CheckedPiece> pieces;
  for (CheckedTensor& checked : tensors_) {
    const std::uint64_t total = checked.tensor->bytes;
    if (!checked.to_read()) {
      progress_.source_bytes_done += total;
      continue;
    }
    if (checked.blocks.across_runs) {
      for (std::uint64_t block = 0; block < checked.blocks.block_count(); ++block) {
        pieces.push_back({&checked, checked.blocks.ranges_of(block), block});
      }
      continue;
    }
    for (std::uint64_t at = 0; at < total;) {
      std::uint64_t end = at + checked.blocks.block_length(at);
      while (end < total && end + checked.blocks.block_length(end) - at <= kPieceBytes) {
        end += checked.blocks.block_length(end);
      }
      pieces.push_back({&checked, {{at, end - at}}, std::nullopt});
      at = end;
    }
  }
  return pieces;
}

void Verifier::check_bytes(const StopFlag& stop) {
  const std::vector<CheckedPiece> work = pieces();
  std::uint64_t largest = 0;
  for (const CheckedPiece& piece : work) largest = std::max(largest, piece_workspace(piece));
  const WorkerBuffers buffers(options_.threads, OpenCheckpoint::kScratchBytes + largest, options_.memory_bytes);
  parallel_for(buffers.workers(), static_cast<std::int64_t>(work.size()), stop, [&](int worker, std::int64_t index) {
    check_piece(work[static_cast<std::size_t>(index)], buffers.of(worker));
  });
  for (const CheckedTensor& checked : tensors_) conclude(checked);
}

std::uint64_t Verifier::piece_workspace(const CheckedPiece& piece) {
  const SourceTensor* original = piece.checked->original;
  const std::uint64_t bytes = 2 * Workspace::cost(piece.bytes());
  if (original == nullptr || original->decoder == nullptr) return bytes;
  const std::uint64_t elements = piece.bytes() / static_cast<std::uint64_t>(bytes_of(piece.checked->tensor->dtype));
  return bytes + Workspace::cost(elements * static_cast<std::uint64_t>(bytes_of(original->dtype))) +
         Workspace::cost(elements * sizeof(float));
}

void Verifier::check_piece(const CheckedPiece& piece, std::span<std::byte> buffer) {
  CheckedTensor& checked = *piece.checked;
  const std::uint64_t bytes = piece.bytes();
  Workspace workspace(buffer);
  const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
  const auto data = workspace.take(bytes);
  files_.gather(*checked.tensor, piece.ranges, scratch, data.data());
  count(bytes);
  if (checked.digest && piece.block) checked.digest->set(*piece.block, BlockDigest::hash(data));
  if (checked.digest && !piece.block) checked.digest->add(piece.ranges[0].offset, data);
  if (checked.is_grid) {
    const std::int64_t element_bytes = bytes_of(checked.tensor->dtype);
    const auto found =
        find_nonfinite(data.data(), checked.tensor->dtype, static_cast<std::int64_t>(bytes) / element_bytes);
    if (found) {
      checked.nonfinite.add(piece.offset_of(static_cast<std::uint64_t>(*found * element_bytes)) /
                            static_cast<std::uint64_t>(element_bytes));
    }
  }
  if (checked.original != nullptr) {
    const auto wanted = wanted_bytes(checked, piece, workspace, scratch);
    progress_.source_bytes_done += bytes;
    if (std::memcmp(data.data(), wanted.data(), data.size()) != 0) {
      const auto differs = std::mismatch(data.begin(), data.end(), wanted.begin()).first;
      checked.difference.add(piece.offset_of(static_cast<std::uint64_t>(differs - data.begin())));
    }
  }
  progress_.source_bytes_done += bytes;
}

/// What the bytes must be.
std::span<const std::byte> Verifier::wanted_bytes(const CheckedTensor& checked, const CheckedPiece& piece,
                                                  Workspace& workspace, std::span<std::byte> scratch) {
  const SourceTensor& original = *checked.original;
  const std::span<std::byte> wanted = workspace.take(piece.bytes());
  if (original.decoder == nullptr) {
    source_files_->gather(original, piece.ranges, scratch, wanted.data());
    count(wanted.size());
    return wanted;
  }
  const auto element = static_cast<std::uint64_t>(bytes_of(checked.tensor->dtype));
  const auto decoded_element = static_cast<std::uint64_t>(bytes_of(original.dtype));
  std::vector<ByteRange> ranges;
  for (const ByteRange& range : piece.ranges) {
    ranges.push_back({range.offset / element * decoded_element, range.bytes / element * decoded_element});
  }
  const std::span<std::byte> decoded = workspace.take(total_bytes(ranges));
  source_files_->gather(original, ranges, scratch, decoded.data());
  count(decoded.size());
  const auto elements = static_cast<std::int64_t>(wanted.size() / element);
  auto* const values = reinterpret_cast<float*>(workspace.take(wanted.size() / element * sizeof(float)).data());
  decode_to_f32(decoded.data(), original.dtype, elements, values);
  encode_from_f32(values, checked.tensor->dtype, elements, wanted.data());
  return wanted;
}

void Verifier::conclude(const CheckedTensor& checked) {
  if (checked.digest) {
    const std::string found = checked.digest->hex();
    ++result_.checksums_compared;
    if (found != checked.reported) {
      problem("tensor {} has checksum {}, the report says {}: its bytes changed after they were written",
              name_in_quotes(*checked.tensor), found, halfquad::quoted(checked.reported));
    }
  }
  if (const auto index = checked.nonfinite.offset()) {
    problem("tensor {} holds a NaN or an infinity at element {}", name_in_quotes(*checked.tensor), *index);
  }
  if (const auto offset = checked.difference.offset()) {
    problem("tensor {} was to be kept unchanged but differs from the source, first at byte {}",
            name_in_quotes(*checked.tensor), *offset);
  }
  ++progress_.tensors_done;
}

// ---- errors

std::uint64_t Verifier::tile_workspace(const MeasuredLayer& measured) const {
  const std::uint64_t weights = total_bytes(measured.layer->tiles.source_ranges(0, bytes_of(measured.original->dtype)));
  return Workspace::cost(StoredTileReader::workspace_bytes(*measured.layer)) + OpenCheckpoint::kScratchBytes +
         Workspace::cost(weights);
}

bool Verifier::has_finite_grid(const StoredLayer& layer) const {
  const auto grids = {layer.scale, layer.zero};
  return std::none_of(grids.begin(), grids.end(), [&](std::size_t grid) {
    return grid != StoredLayer::kNoTensor && tensors_[grid].nonfinite.offset().has_value();
  });
}

void Verifier::measure_layers(const StopFlag& stop) {
  std::vector<MeasuredTile> work;
  std::uint64_t largest = 0;
  for (MeasuredLayer& measured : measured_) {
    measured.finite = has_finite_grid(*measured.layer);
    if (!measured.finite) continue;
    largest = std::max(largest, tile_workspace(measured));
    for (std::int64_t tile = 0; tile < measured.layer->tiles.tile_count(); ++tile) work.push_back({&measured, tile});
  }
  if (work.empty()) return;
  const WorkerBuffers buffers(options_.threads, largest, options_.memory_bytes);
  std::vector<std::unique_ptr<Solver>> solvers;
  for (int i = 0; i < buffers.workers(); ++i) {
    solvers.push_back(options_.make_solver ? options_.make_solver() : make_reference_solver());
  }
  parallel_for(buffers.workers(), static_cast<std::int64_t>(work.size()), stop, [&](int worker, std::int64_t index) {
    measure_tile(work[static_cast<std::size_t>(index)], *solvers[static_cast<std::size_t>(worker)], buffers.of(worker));
  });
  for (const MeasuredLayer& measured : measured_) conclude(measured);
}

void Verifier::measure_tile(const MeasuredTile& item, Solver& solver, std::span<std::byte> buffer) {
  const StoredLayer& layer = *item.measured->layer;
  const SourceTensor& original = *item.measured->original;
  Workspace workspace(buffer);
  StoredTileReader reader(output_, files_, workspace.take(StoredTileReader::workspace_bytes(layer)));
  const StoredTile tile = reader.load(layer, item.tile);
  const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
  const auto weights = workspace.take(static_cast<std::uint64_t>(tile.elements() * bytes_of(original.dtype)));
  source_files_->gather(original, layer.tiles.source_ranges(item.tile, bytes_of(original.dtype)), scratch,
                        weights.data());
  count(reader.bytes_read() + weights.size());
  progress_.source_bytes_done += weights.size();

  bool too_large = false;
  const auto largest_code = static_cast<float>(layer.spec.largest_code());
  for (std::int64_t g = 0; g < tile.groups; ++g) {
    if (!((largest_code + std::abs(tile.zero[g])) * std::abs(tile.scale[g]) < kLargestWeight)) too_large = true;
  }
  ErrorSums error;
  const std::int64_t zeroed = zero_nonfinite(weights.data(), original.dtype, tile.elements());
  if (!too_large) {
    const GroupBlock block{.data = weights.data(),
                           .dtype = original.dtype,
                           .groups = tile.groups,
                           .group_elems = tile.group_elems,
                           .group_stride = tile.group_stride,
                           .element_stride = tile.element_stride};
    solver.measure(block, tile.given(), error);
  }
  progress_.weights_done += static_cast<std::uint64_t>(tile.elements());

  const std::lock_guard lock(mutex_);
  item.measured->error.add(error);
  item.measured->zeroed += zeroed;
  item.measured->too_large |= too_large;
}

bool agrees(double found, double reported) {
  return std::abs(found - reported) <= kErrorTolerance * std::max(std::abs(found), std::abs(reported));
}

void Verifier::conclude(const MeasuredLayer& measured) {
  const StoredLayer& layer = *measured.layer;
  const std::string name = halfquad::quoted(layer.module);
  if (!measured.finite) return;  // named already
  if (measured.too_large) {
    problem("layer {}: its scales and zeros make weights beyond {}", name, static_cast<double>(kLargestWeight));
    return;
  }
  const std::int64_t weights = layer.rows * layer.cols;
  result_.layers.push_back({.module = layer.module, .error = measured.error, .weights = weights});
  const double mean_abs = measured.error.abs.value() / static_cast<double>(weights);
  const double square = measured.error.square.value();
  const double signal = measured.error.weight2.value();
  if (!report_) return;
  const auto found = report_->layers.find(layer.module);
  if (found == report_->layers.end()) return;  // named already
  const RunReport::Layer& reported = found->second;
  if (!agrees(mean_abs, reported.mean_abs_error)) {
    problem("layer {}: the mean absolute error against this source is {:.9g}, the report says {:.9g}", name, mean_abs,
            reported.mean_abs_error);
  }
  if (reported.relative_error && signal > 0 && !agrees(std::sqrt(square / signal), *reported.relative_error)) {
    problem("layer {}: the relative error against this source is {:.9g}, the report says {:.9g}", name,
            std::sqrt(square / signal), *reported.relative_error);
  }
  if (measured.zeroed != reported.zeroed) {
    problem("layer {}: this source holds {} NaN or infinite weights, the report says that {} were set to zero", name,
            measured.zeroed, reported.zeroed);
  }
}

}  // namespace

VerifyResult verify_output(FileSystem& fs, const QuantizedModel& output,
                           const std::optional<boost::json::object>& report, const Checkpoint* source,
                           const VerifyOptions& options, ProgressCounters& progress, const StopFlag& stop) {
  Verifier verifier(fs, output, source, options, progress);
  if (report) verifier.use_report(*report);
  if (source != nullptr) verifier.compare_names_with_source();
  verifier.check_bytes(stop);
  if (source != nullptr) verifier.measure_layers(stop);
  return std::move(verifier).result();
}

}  // namespace halfquad
