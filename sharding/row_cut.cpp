#include "sharding/row_cut.h"

#include <algorithm>

#include "runtime/checked.h"

namespace halfquad {

RowCut RowCut::by_rows(std::int64_t rows, std::uint64_t row_bytes) noexcept {
  return {1, static_cast<std::uint64_t>(rows) * row_bytes, 1, row_bytes};
}

RowCut RowCut::by_columns(std::int64_t lines, std::int64_t rows, std::uint64_t element_bytes) noexcept {
  return {lines, static_cast<std::uint64_t>(rows) * element_bytes, 1, element_bytes};
}

std::uint64_t RowCut::offset_of(std::int64_t row) const noexcept {
  return std::min(run_bytes, static_cast<std::uint64_t>(row / unit_rows) * unit_bytes);
}

std::uint64_t RowCut::bytes_in_run(std::int64_t begin, std::int64_t end) const noexcept {
  const std::uint64_t until = std::min(run_bytes, static_cast<std::uint64_t>(ceil_div(end, unit_rows)) * unit_bytes);
  return until - offset_of(begin);
}

std::vector<ByteRange> RowCut::ranges(std::int64_t begin, std::int64_t end) const {
  std::vector<ByteRange> ranges;
  ranges.reserve(static_cast<std::size_t>(runs));
  const std::uint64_t offset = offset_of(begin);
  const std::uint64_t bytes = bytes_in_run(begin, end);
  for (std::int64_t run = 0; run < runs; ++run) {
    ranges.push_back({start + static_cast<std::uint64_t>(run) * run_bytes + offset, bytes});
  }
  return ranges;
}

BlockLayout RowCut::blocks(std::int64_t tile_rows) const noexcept {
  return {total_bytes(), run_bytes, bytes_in_run(0, tile_rows), runs > 1};
}

}  // namespace halfquad
