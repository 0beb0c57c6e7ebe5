#include "sharding/conversion.h"

#include <algorithm>

#include "kernels/decode.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr std::int64_t kBlockElements = 1 << 20;

}  // namespace

std::int64_t RowOrder::output_row(std::int64_t row) const noexcept {
  if (kind != Kind::kInterleaved) return row;
  const std::int64_t head = row / head_rows * head_rows;
  const std::int64_t half = head_rows / 2;
  const std::int64_t in_head = row - head;
  return head + 2 * (in_head % half) + in_head / half;
}

std::int64_t Conversion::block_rows() const noexcept {
  const std::int64_t unit = order.kind == RowOrder::Kind::kSame ? 1 : order.head_rows;
  return std::max<std::int64_t>(1, kBlockElements / std::max<std::int64_t>(1, cols * unit)) * unit;
}

std::int64_t Conversion::blocks() const noexcept { return rows * cols == 0 ? 0 : ceil_div(rows, block_rows()); }

std::uint64_t Conversion::output_elements() const noexcept {
  const bool slice = order.kind == RowOrder::Kind::kSlice || order.kind == RowOrder::Kind::kTransposedSlice;
  const std::int64_t kept = slice ? rows / order.head_rows * order.count : rows;
  return static_cast<std::uint64_t>(kept * cols);
}

Conversion::Block Conversion::block(std::int64_t index) const noexcept {
  const auto elements_before = [&](std::int64_t row) {
    const bool slice = order.kind == RowOrder::Kind::kSlice || order.kind == RowOrder::Kind::kTransposedSlice;
    return static_cast<std::uint64_t>((slice ? row / order.head_rows * order.count : row) * cols);
  };
  const std::int64_t begin = index * block_rows();
  const std::int64_t end = std::min(rows, begin + block_rows());
  return {begin, end, elements_before(end) - elements_before(begin),
          elements_before(begin) * static_cast<std::uint64_t>(bytes_of(to))};
}

BlockLayout Conversion::layout(std::size_t sources) const noexcept {
  const auto element = static_cast<std::uint64_t>(bytes_of(to));
  const std::uint64_t run = output_elements() * element;
  return {run * sources, run, blocks() == 0 ? run : block(0).elements * element};
}

void Conversion::apply(const Block& block, std::span<const float> weights, std::byte* out) const {
  const std::int64_t element = bytes_of(to);
  std::vector<float> line(static_cast<std::size_t>(std::max(cols, order.count)));
  const auto put = [&](std::int64_t at, std::int64_t count) {
    if (add != 0) {
      for (std::int64_t i = 0; i < count; ++i) line[static_cast<std::size_t>(i)] += add;
    }
    encode_from_f32(line.data(), to, count, out + at * element);
  };
  const std::int64_t count = block.end - block.begin;
  if (order.kind == RowOrder::Kind::kSame || order.kind == RowOrder::Kind::kInterleaved) {
    for (std::int64_t row = 0; row < count; ++row) {
      std::copy_n(weights.data() + row * cols, cols, line.data());
      put(order.output_row(block.begin + row) * cols - block.begin * cols, cols);
    }
    return;
  }
  for (std::int64_t head = 0; head < count / order.head_rows; ++head) {
    const float* slice = weights.data() + (head * order.head_rows + order.first) * cols;
    const std::int64_t at = head * order.count * cols;
    if (order.kind == RowOrder::Kind::kSlice) {
      for (std::int64_t row = 0; row < order.count; ++row) {
        std::copy_n(slice + row * cols, cols, line.data());
        put(at + row * cols, cols);
      }
      continue;
    }
    for (std::int64_t col = 0; col < cols; ++col) {
      for (std::int64_t row = 0; row < order.count; ++row)
        line[static_cast<std::size_t>(row)] = slice[row * cols + col];
      put(at + col * order.count, order.count);
    }
  }
}

}  // namespace halfquad
