#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <utility>

#include "io/block_digest.h"
#include "kernels/decode.h"
#include "kernels/level_grid.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/pipeline.h"

namespace halfquad {

void Pipeline::push_write(Unit unit) {
  std::unique_lock lock(mutex_);
  writing_room_.wait(lock, [&] { return failed_ || writing_.size() < shape_.writing_limit; });
  if (failed_) return;
  writing_.push_back(std::move(unit));
  writing_changed_.notify_one();
}

void Pipeline::write_loop(const std::string& lane) {
  while (std::optional<Unit> unit = next_write()) {
    check_stop();
    const auto start = std::chrono::steady_clock::now();
    write(*unit);
    unit->buffer.release();
    trace(lane, "write", item_of(*unit), start);
    {
      const std::lock_guard lock(mutex_);
      stats_.write_seconds += seconds_since(start);
    }
    if (unit->phase == Unit::Phase::kAhead) {
      written_ahead(std::move(*unit));
    } else {
      item_done(std::move(unit->record));
    }
  }
}

// A tile whose tensor is not decided, or was decided while it was being written.
void Pipeline::written_ahead(Unit unit) {
  {
    const std::lock_guard lock(mutex_);
    const std::size_t tensor = item_of(unit).tensor;
    TensorState& state = tensors_[tensor];
    int settled = 0;
    for (const StripResult& strip : unit.strips) settled = std::max(settled, strip.settled);
    state.given_up.push_back({unit.item, settled, std::move(unit.record)});
    if (--state.writes_ahead == 0) settle_given_up_locked(tensor);
  }
}

std::optional<Unit> Pipeline::next_write() {
  std::unique_lock lock(mutex_);
  writing_changed_.wait(lock, [&] {
    return failed_ || !let_go_.empty() || !writing_.empty() || (readers_running_ == 0 && workers_running_ == 0);
  });
  // Readers and workers may wait for room in writing_, nobody for the others.
  std::deque<Unit>& from = writing_.empty() ? let_go_ : writing_;
  if (failed_ || from.empty()) return {};
  Unit unit = std::move(from.front());
  from.pop_front();
  writing_room_.notify_one();
  return unit;
}

void Pipeline::write(Unit& unit) {
  if (unit.phase == Unit::Phase::kCopy) {
    put(unit.record, std::array{OutputPiece{item_of(unit).tensor, copied_to(unit), unit.buffer.copied()}});
  } else {
    write_tile(unit);
  }
}

// Where the bytes of a copied or converted block go in their tensor.
std::uint64_t Pipeline::copied_to(const Unit& unit) const {
  const WorkItem& item = item_of(unit);
  const OutputTensor& content = in_.layout.contents()[item.tensor];
  if (content.kind == OutputTensor::Kind::kCopy) return unit.buffer.ranges()[0].offset;
  const Conversion& conversion = content.conversion;
  return static_cast<std::uint64_t>(item.index / conversion.blocks()) * content.blocks.run_bytes +
         conversion.block(item.index % conversion.blocks()).offset;
}

void Pipeline::item_done(ItemRecord record) {
  if (record.decision.importance) {
    const std::lock_guard lock(mutex_);
    bool& told = tensors_[in_.plan.items[record.item].tensor].importance_told;
    if (told) record.decision.importance.reset();
    told = true;
  }
  in_.progress.source_bytes_done += in_.plan.items[record.item].source_bytes;
  in_.share.done(std::move(record));
}

void Pipeline::write_tile(Unit& unit) {
  const WorkItem& item = item_of(unit);
  const QuantizedTensor& tensor = in_.layout.quantized()[item.tensor];
  const TileOutput& output = unit.buffer.output();
  for (const StripResult& strip : unit.strips) unit.record.error.add(strip.error);
  std::vector<OutputPiece> pieces;
  const auto add_all = [&](std::size_t entry, std::span<const ByteRange> ranges, const std::byte* data) {
    if (entry == QuantizedTensor::kNoEntry) return;
    for (const ByteRange& range : ranges) {
      pieces.push_back({entry, range.offset, {data, range.bytes}});
      data += range.bytes;
    }
  };
  add_all(tensor.codes, tensor.tiles.code_ranges(item.index), output.codes);
  const std::int64_t stored_bytes = bytes_of(in_.layout.stored());
  add_all(tensor.scale, tensor.tiles.scale_ranges(item.index, stored_bytes), output.scale);
  add_all(tensor.zero, tensor.tiles.zero_ranges(item.index, stored_bytes), output.zero);
  // What there is once for a tensor goes with its first tile.
  float kept_scale = 1;
  if (tensor.tensor_scale != QuantizedTensor::kNoEntry && item.index == 0) {
    const float found = unit.record.decision.tensor_scale;
    kept_scale = tensor.tensor_scale_form == TensorScaleForm::kFactor ? 1 / found : found;
    pieces.push_back({tensor.tensor_scale, tensor.tensor_scale_at, std::as_bytes(std::span(&kept_scale, 1))});
  }
  if (tensor.levels != QuantizedTensor::kNoEntry && item.index == 0) {
    const auto count = static_cast<std::size_t>(level_count(tensor.spec.grid));
    pieces.push_back({tensor.levels, 0, std::as_bytes(std::span(*unit.record.decision.levels).first(count))});
  }
  if (tensor.spec.channel_wise || item.index != 0) {
    put(unit.record, pieces);
    return;
  }
  const auto grid = grid_bytes(tensor, unit.record.decision.grid);
  const auto bytes = static_cast<std::size_t>(bytes_of(in_.layout.stored()));
  pieces.push_back({tensor.scale, 0, std::span(grid[0]).first(bytes)});
  pieces.push_back({tensor.zero, 0, std::span(grid[1]).first(bytes)});
  put(unit.record, pieces);
}

// Scale and zero as they are stored.
std::array<std::array<std::byte, sizeof(float)>, 2> Pipeline::grid_bytes(const QuantizedTensor& tensor,
                                                                         const FixedGrid& grid) const {
  const DType stored = in_.layout.stored();
  HALFQUAD_REQUIRE(std::isfinite(grid.scale) && std::isfinite(grid.zero), kBadInput,
                   range_error(in_.checkpoint.tensors()[tensor.source]));
  HALFQUAD_REQUIRE(std::isfinite(round_to(stored, grid.scale)) && std::isfinite(round_to(stored, grid.zero)), kBadInput,
                   "layer " + quoted(tensor.module) + ": its scale or zero does not fit " +
                       std::string(name_of(stored)) + "; use --scale-dtype f32, or leave the layer out with --skip");
  std::array<std::array<std::byte, sizeof(float)>, 2> bytes{};
  encode_from_f32(&grid.scale, stored, 1, bytes[0].data());
  encode_from_f32(&grid.zero, stored, 1, bytes[1].data());
  return bytes;
}

// Writes whole checksum blocks and notes their sums.
void Pipeline::put(ItemRecord& record, std::span<const OutputPiece> pieces) {
  in_.sink.write(pieces);
  for (std::size_t i = 0; i < pieces.size();) {
    const OutputPiece& piece = pieces[i];
    const BlockLayout& blocks = in_.layout.contents()[piece.entry].blocks;
    const auto entry = static_cast<std::uint32_t>(piece.entry);
    if (blocks.across_runs) {  // one block, whose parts lie back to back in memory
      std::uint64_t bytes = 0;
      for (; i < pieces.size() && pieces[i].entry == entry; ++i) bytes += pieces[i].data.size();
      in_.progress.bytes_written += bytes;
      record.blocks.push_back(
          {entry, piece.offset / blocks.block_bytes, BlockDigest::hash({piece.data.data(), bytes})});
      continue;
    }
    ++i;
    in_.progress.bytes_written += piece.data.size();
    std::span<const std::byte> data = piece.data;
    std::uint64_t offset = piece.offset;
    while (!data.empty()) {
      const std::uint64_t length = blocks.block_length(offset);
      HALFQUAD_REQUIRE(length <= data.size(), kInternal, "a write ends inside a checksum block");
      record.blocks.push_back({entry, blocks.block_at(offset), BlockDigest::hash(data.first(length))});
      offset += length;
      data = data.subspan(length);
    }
  }
}

}  // namespace halfquad
