#include "sharding/coded_tile.h"

#include <limits>

#include "runtime/checked.h"

namespace halfquad {

std::optional<CodedTile> CodedTile::of(const QuantizedTensor& tensor, std::int64_t tile, const SourceTensor& source) {
  if (source.decoder == nullptr || tensor.tiles.by_columns()) return std::nullopt;
  if (tensor.rows * tensor.cols > std::numeric_limits<std::int32_t>::max()) return std::nullopt;
  const std::optional<ScaledCodes> layout = source.decoder->scaled_codes();
  if (!layout) return std::nullopt;
  CodedTile coded(*layout);
  for (const ByteRange& range : tensor.tiles.source_ranges(tile, 1)) {
    const auto first = static_cast<std::int64_t>(range.offset);
    const auto count = static_cast<std::int64_t>(range.bytes);
    coded.runs_.push_back({{first / layout->cols, first % layout->cols, count, layout->cols}, {}, {}});
  }
  return coded;
}

ByteRange CodedTile::codes_of(const Run& run) const noexcept {
  const MatrixRun& at = run.elements;
  return {layout_.offset + static_cast<std::uint64_t>(at.first_row * at.cols + at.first_col),
          static_cast<std::uint64_t>(at.count)};
}

ByteRange CodedTile::scales_of(const Run& run) const noexcept {
  const MatrixRun& at = run.elements;
  const std::int64_t rows = ceil_div(at.first_col + at.count, at.cols);
  const std::int64_t begin = at.first_row / layout_.block_rows;
  const std::int64_t end = ceil_div(at.first_row + rows, layout_.block_rows);
  const std::int64_t line = ceil_div(at.cols, layout_.block_cols) * bytes_of(layout_.scale_dtype);
  return {layout_.scale_offset + static_cast<std::uint64_t>(begin * line),
          static_cast<std::uint64_t>((end - begin) * line)};
}

std::uint64_t CodedTile::bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const Run& run : runs_) bytes += scratch_bytes(codes_of(run).bytes) + scratch_bytes(scales_of(run).bytes);
  return bytes;
}

void CodedTile::read(const OpenCheckpoint& files, std::span<std::byte> memory) {
  const auto read = [&](int file, ByteRange range) {
    const std::uint64_t room = scratch_bytes(range.bytes);
    const std::span<std::byte> read = files.file(file).read(range.offset, range.bytes, memory.first(room));
    memory = memory.subspan(room);
    return read;
  };
  for (Run& run : runs_) {
    run.codes = read(layout_.file, codes_of(run));
    run.scales = read(layout_.scale_file, scales_of(run));
  }
}

void CodedTile::decode(float* weights) const noexcept {
  for (const Run& run : runs_) {
    const ScaleGrid grid{run.scales.data(), layout_.scale_dtype, layout_.block_rows, layout_.block_cols};
    decode_fp8_run(run.codes.data(), layout_.dtype, run.elements, grid, weights);
    weights += run.elements.count;
  }
}

}  // namespace halfquad
