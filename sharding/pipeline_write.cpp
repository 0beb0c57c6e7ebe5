#include <array>
#include <chrono>
#include <cmath>
#include <utility>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/pipeline.h"

namespace halfquad {

void Pipeline::push_write(Unit unit) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failed_ || writing_.size() < shape_.writing_limit; });
  if (failed_) return;
  writing_.push_back(std::move(unit));
  changed_.notify_all();
}

void Pipeline::write_loop() {
  while (std::optional<Unit> unit = next_write()) {
    check_stop();
    const auto start = std::chrono::steady_clock::now();
    write(*unit);
    unit->buffer.release();
    const double seconds = seconds_since(start);
    const std::lock_guard lock(mutex_);
    result_.write_seconds += seconds;
    const WorkItem& item = item_of(*unit);
    if (unit->phase != Unit::Phase::kAhead) {
      item_done_locked(item);
    } else if (--tensors_[item.tensor].writes_ahead == 0) {
      settle_given_up_locked(item.tensor);
      changed_.notify_all();
    }
  }
}

std::optional<Unit> Pipeline::next_write() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failed_ || !writing_.empty() || (readers_running_ == 0 && workers_running_ == 0); });
  if (failed_ || writing_.empty()) return {};
  Unit unit = std::move(writing_.front());
  writing_.pop_front();
  changed_.notify_all();
  return unit;
}

void Pipeline::write(const Unit& unit) {
  const WorkItem& item = item_of(unit);
  if (unit.phase == Unit::Phase::kCopy) {
    put(item.tensor, unit.buffer.ranges()[0].offset, unit.buffer.copied());
  } else {
    write_tile(unit);
  }
}

void Pipeline::item_done_locked(const WorkItem& item) {
  in_.progress.source_bytes_done += item.source_bytes;
  if (--open_items_[entry_of(item)] == 0) ++in_.progress.tensors_done;
}

void Pipeline::write_tile(const Unit& unit) {
  const WorkItem& item = item_of(unit);
  const QuantizedTensor& tensor = in_.layout.quantized()[item.tensor];
  const TileOutput& output = unit.buffer.output();
  const auto put_all = [&](std::size_t entry, std::span<const ByteRange> ranges, const std::byte* data) {
    for (const ByteRange& range : ranges) {
      put(entry, range.offset, {data, range.bytes});
      data += range.bytes;
    }
  };
  put_all(tensor.codes, tensor.tiles.code_ranges(item.index), output.codes);
  const std::vector<ByteRange> scales = tensor.tiles.scale_ranges(item.index, bytes_of(in_.layout.stored()));
  put_all(tensor.scale, scales, output.scale);
  put_all(tensor.zero, scales, output.zero);
}

// The one scale and zero of a tensor that is quantized as a whole.
void Pipeline::write_grid(std::size_t index) {
  const QuantizedTensor& tensor = in_.layout.quantized()[index];
  const DType stored = in_.layout.stored();
  const FixedGrid& grid = tensors_[index].grid;
  const WeightRange& range = tensors_[index].range;
  HALFQUAD_REQUIRE(std::isfinite(range.hi - range.lo), kBadInput, range_error(in_.checkpoint.tensors()[tensor.source]));
  HALFQUAD_REQUIRE(std::isfinite(round_to(stored, grid.scale)) && std::isfinite(round_to(stored, grid.zero)), kBadInput,
                   "layer " + quoted(tensor.module) + ": its scale or zero does not fit " +
                       std::string(name_of(stored)) + "; use --scale-dtype f32, or leave the layer out with --skip");
  for (const auto& [entry, value] : {std::pair{tensor.scale, grid.scale}, std::pair{tensor.zero, grid.zero}}) {
    std::array<std::byte, sizeof(float)> bytes{};
    encode_from_f32(&value, stored, 1, bytes.data());
    put(entry, 0, std::span(bytes).first(static_cast<std::size_t>(bytes_of(stored))));
  }
}

void Pipeline::write_constants() {
  for (std::size_t i = 0; i < in_.layout.contents().size(); ++i) {
    const OutputTensor& content = in_.layout.contents()[i];
    if (content.kind == OutputTensor::Kind::kConstant) put(i, 0, std::as_bytes(std::span(content.constant)));
    // An empty tensor has no items: it is done as it stands.
    if (content.kind == OutputTensor::Kind::kCopy && open_items_[i] == 0) ++in_.progress.tensors_done;
  }
}

void Pipeline::put(std::size_t entry, std::uint64_t offset, std::span<const std::byte> data) {
  in_.writer.write(entry, offset, data);
  digests_[entry].add(offset, data);
  in_.progress.bytes_written += data.size();
}

}  // namespace halfquad
