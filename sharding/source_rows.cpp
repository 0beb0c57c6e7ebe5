#include "sharding/source_rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/fp8.h"
#include "kernels/mxfp4.h"
#include "kernels/packed_int.h"
#include "runtime/check.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

std::uint64_t count_of(SourceRows rows) { return static_cast<std::uint64_t>(rows.end - rows.begin); }

/// Every `stride`-th piece of `bytes` bytes; neighbours become one range.
struct Pieces {
  std::uint64_t begin, bytes, stride, count;
};
std::vector<ByteRange> ranges_of(const Pieces& pieces) {
  if (pieces.count == 0) return {};
  if (pieces.stride == pieces.bytes) return {{pieces.begin, pieces.bytes * pieces.count}};
  std::vector<ByteRange> ranges;
  ranges.reserve(pieces.count);
  for (std::uint64_t i = 0; i < pieces.count; ++i) ranges.push_back({pieces.begin + i * pieces.stride, pieces.bytes});
  return ranges;
}

/// Of a transposed matrix: from the first row's element to the last one's, in every column.
std::vector<ByteRange> strips_of(const LogicalTensor& tensor, SourceRows rows) {
  if (rows.begin == rows.end) return {};
  const std::uint64_t span = (count_of(rows) - 1) * tensor.row_stride + tensor.row_bytes;
  const auto first = static_cast<std::uint64_t>(rows.begin) * tensor.row_stride;
  return ranges_of({tensor.begin + first, span, tensor.col_stride, static_cast<std::uint64_t>(tensor.header.shape[1])});
}

/// Lines [begin, end) of a row-major matrix.
std::vector<ByteRange> lines_of(std::int64_t begin, std::int64_t end, std::uint64_t line_bytes) {
  if (begin == end) return {};
  return {{static_cast<std::uint64_t>(begin) * line_bytes, static_cast<std::uint64_t>(end - begin) * line_bytes}};
}

std::uint64_t scales_per_line(const LogicalTensor& tensor) {
  return static_cast<std::uint64_t>(ceil_div(tensor.header.shape[1], tensor.block_cols));
}

std::vector<ByteRange> scales_of(const LogicalTensor& tensor, SourceRows rows) {
  if (tensor.encoding == SourceEncoding::kMxfp4) {
    const std::uint64_t bytes = scales_per_line(tensor);
    const std::uint64_t stride = tensor.row_stride / tensor.row_bytes * bytes;
    return ranges_of(
        {tensor.scale_begin + static_cast<std::uint64_t>(rows.begin) * stride, bytes, stride, count_of(rows)});
  }
  if (rows.begin == rows.end) return {};
  const auto element = static_cast<std::uint64_t>(bytes_of(tensor.scale_dtype));
  const std::int64_t begin = rows.begin / tensor.block_rows, end = ceil_div(rows.end, tensor.block_rows);
  if (tensor.scale_col_stride != 0) {
    return ranges_of({tensor.scale_begin + static_cast<std::uint64_t>(begin) * element,
                      static_cast<std::uint64_t>(end - begin) * element, tensor.scale_col_stride,
                      scales_per_line(tensor)});
  }
  std::vector<ByteRange> ranges = lines_of(begin, end, scales_per_line(tensor) * element);
  for (ByteRange& range : ranges) range.offset += tensor.scale_begin;
  return ranges;
}

constexpr std::int64_t kWordBits = 32;
constexpr std::uint64_t kWordBytes = 4;

std::vector<ByteRange> zeros_of(const LogicalTensor& tensor, SourceRows rows) {
  if (!tensor.zero || rows.begin == rows.end) return {};
  return lines_of(rows.begin * tensor.bits / kWordBits, ceil_div(rows.end * tensor.bits, kWordBits),
                  scales_per_line(tensor) * kWordBytes);
}

/// `strips`: for each column of the matrix its elements, `stride` bytes apart.
void transpose(const LogicalTensor& tensor, std::size_t rows, const std::byte* strips, std::byte* out) noexcept {
  const auto cols = static_cast<std::size_t>(tensor.header.shape[1]);
  const std::size_t size = tensor.row_bytes;
  const std::size_t strip_bytes = rows == 0 ? 0 : (rows - 1) * tensor.row_stride + size;
  // A square at a time, so that neither side leaves the cache between two visits of a line.
  constexpr std::size_t kSquare = 32;
  for (std::size_t row_begin = 0; row_begin < rows; row_begin += kSquare) {
    const std::size_t row_end = std::min(rows, row_begin + kSquare);
    for (std::size_t col = 0; col < cols; ++col) {
      const std::byte* strip = strips + col * strip_bytes;
      for (std::size_t row = row_begin; row < row_end; ++row) {
        std::memcpy(out + (row * cols + col) * size, strip + row * tensor.row_stride, size);
      }
    }
  }
}

}  // namespace

RowSources sources_of_rows(const LogicalTensor& tensor, SourceRows rows) {
  HALFQUAD_DCHECK(tensor.header.shape.size() == 2);
  RowSources sources;
  if (tensor.col_stride != 0) {
    sources.data = strips_of(tensor, rows);
  } else {
    const std::uint64_t first = tensor.begin + static_cast<std::uint64_t>(rows.begin) * tensor.row_stride;
    sources.data = ranges_of({first, tensor.row_bytes, tensor.row_stride, count_of(rows)});
  }
  if (tensor.encoding != SourceEncoding::kPlain) {
    sources.scale = scales_of(tensor, rows);
    sources.zero = zeros_of(tensor, rows);
  }
  return sources;
}

double stored_bytes_per_row(const LogicalTensor& tensor) noexcept {
  const bool transposed = tensor.col_stride != 0;  // strips hold what lies between the rows, too
  const auto data = static_cast<double>(
      transposed ? static_cast<std::uint64_t>(tensor.header.shape[1]) * tensor.row_stride : tensor.row_bytes);
  if (tensor.encoding == SourceEncoding::kPlain) return data;
  const auto scales = static_cast<double>(scales_per_line(tensor));
  if (tensor.encoding == SourceEncoding::kMxfp4) return data + scales;
  const double zeros = tensor.zero ? scales * kWordBytes * tensor.bits / kWordBits : 0;
  return data + scales * static_cast<double>(bytes_of(tensor.scale_dtype)) / static_cast<double>(tensor.block_rows) +
         zeros;
}

void decode_rows(const LogicalTensor& tensor, SourceRows rows, const RowBytes& bytes, std::byte* out) noexcept {
  if (tensor.encoding == SourceEncoding::kPlain) {
    if (tensor.col_stride != 0) {
      transpose(tensor, count_of(rows), bytes.data.data(), out);
    } else if (!bytes.data.empty()) {
      std::memcpy(out, bytes.data.data(), bytes.data.size());
    }
    return;
  }
  const MatrixRows matrix{rows.begin, rows.end - rows.begin, tensor.header.shape[1]};
  ScaleGrid grid{bytes.scale.data(), tensor.scale_dtype, tensor.block_rows, tensor.block_cols};
  auto* weights = reinterpret_cast<float*>(out);
  if (tensor.encoding == SourceEncoding::kBytes) {
    if (tensor.scale_col_stride != 0) {
      grid.lines = ceil_div(rows.end, tensor.block_rows) - rows.begin / tensor.block_rows;
    }
    const std::byte* codes = bytes.data.data();
    if (tensor.col_stride != 0) {  // upright at the end of what they become
      std::byte* const upright = out + static_cast<std::uint64_t>(matrix.count * matrix.cols) * (sizeof(float) - 1);
      transpose(tensor, count_of(rows), codes, upright);
      codes = upright;
    }
    decode_fp8_rows(codes, tensor.stored_dtype, matrix, grid, weights);
  } else if (tensor.encoding == SourceEncoding::kMxfp4) {
    decode_mxfp4(bytes.data.data(), bytes.scale.data(), matrix.count * matrix.cols / kMxfp4Block, weights);
  } else {
    decode_packed_int_rows({tensor.bits, bytes.data.data(), tensor.zero ? bytes.zero.data() : nullptr}, matrix, grid,
                           weights);
  }
}

}  // namespace halfquad
