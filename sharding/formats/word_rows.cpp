#include "sharding/formats/word_rows.h"

#include <algorithm>
#include <vector>

#include "kernels/decode.h"
#include "sharding/formats/row_format.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kWordBytes = 4;

bool is_transposed(WordLayout layout) {
  return layout == WordLayout::kRowsDown || layout == WordLayout::kColumns || layout == WordLayout::kAwq;
}

/// How the words of a matrix of codes with `cols` columns and the layer's rows are cut.
RowCut word_cut(WordLayout layout, int bits, std::int64_t rows, std::int64_t cols) {
  const auto words = [](std::int64_t count) { return static_cast<std::uint64_t>(count) * kWordBytes; };
  const std::int64_t row_words = bit_stream_words(cols, bits);
  const std::int64_t column_words = bit_stream_words(rows, bits);
  constexpr std::int64_t kStep = TileGeometry::kRowStep;  // rows that fill whole words at any width
  switch (layout) {
    case WordLayout::kRows:
      return RowCut::by_rows(rows, words(row_words));
    case WordLayout::kRowsDown:
      return RowCut::by_columns(row_words, rows, kWordBytes);
    case WordLayout::kColumns:
    case WordLayout::kAwq:
      return {cols, words(column_words), kStep, words(bits)};
    case WordLayout::kColumnsDown:
      return {1, words(column_words * cols), kStep, words(bits * cols)};
  }
  return {};
}

/// Bytes from one line of words to the next.
std::int64_t line_stride(WordLayout layout, int bits, std::int64_t cols, std::uint64_t run_stride) {
  if (is_transposed(layout)) return static_cast<std::int64_t>(run_stride);
  const std::int64_t words = layout == WordLayout::kRows ? bit_stream_words(cols, bits) : cols;
  return words * static_cast<std::int64_t>(kWordBytes);
}

}  // namespace

RowCut grid_cut(bool transposed, const RowShape& shape) noexcept {
  const auto element = static_cast<std::uint64_t>(bytes_of(shape.stored));
  const std::int64_t groups = shape.groups_per_row();
  return transposed ? RowCut::by_columns(groups, shape.rows, element)
                    : RowCut::by_rows(shape.rows, static_cast<std::uint64_t>(groups) * element);
}

void store_grid(bool transposed, const RowShape& shape, const float* values, std::int64_t rows,
                const LineBytes<std::byte>& out) {
  const std::int64_t groups = shape.groups_per_row();
  if (transposed) {
    store_transposed(values, rows, groups, shape.stored, {out.data, static_cast<std::int64_t>(out.stride)});
  } else {
    encode_from_f32(values, shape.stored, rows * groups, out.data);
  }
}

void load_grid(bool transposed, const RowShape& shape, const LineBytes<const std::byte>& in, std::int64_t rows,
               float* values) {
  const std::int64_t groups = shape.groups_per_row();
  if (transposed) {
    load_transposed({in.data, static_cast<std::int64_t>(in.stride)}, shape.stored, rows, groups, values);
  } else {
    decode_to_f32(in.data, shape.stored, rows * groups, values);
  }
}

bool WordRows::has_zeros(const RowShape& shape) const noexcept {
  return layout_.zeros.has_value() && (layout_.store_symmetric || shape.spec.zeros != ZeroKind::kSymmetric);
}

RowCuts WordRows::cuts(const RowShape& shape) const noexcept {
  const int bits = whole_bits(shape.spec.width);
  RowCuts cuts{word_cut(layout_.codes, bits, shape.rows, shape.cols), grid_cut(layout_.transposed_scales, shape), {}};
  if (!layout_.zeros) {
    cuts.zero = cuts.scale;
  } else if (has_zeros(shape)) {
    cuts.zero = word_cut(*layout_.zeros, bits, shape.rows, shape.groups_per_row());
  }
  return cuts;
}

std::int64_t WordRows::least_tile_rows() const noexcept {
  return is_transposed(layout_.codes) ? kTransposedTileRows : TileGeometry::kRowStep;
}

void WordRows::pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const {
  const int bits = whole_bits(shape.spec.width);
  const std::int64_t groups = shape.groups_per_row();
  const auto lines = [&](WordLayout layout, std::int64_t cols, const LineBytes<std::byte>& place) {
    return MutableLines{place.data, line_stride(layout, bits, cols, place.stride)};
  };
  pack_words(layout_.codes, bits, {rows.codes, rows.rows, shape.cols, shape.cols},
             lines(layout_.codes, shape.cols, out.codes));
  store_grid(layout_.transposed_scales, shape, rows.scale, rows.rows, out.scale);
  if (!layout_.zeros) return store_grid(layout_.transposed_scales, shape, rows.second, rows.rows, out.zero);
  if (!has_zeros(shape)) return;
  std::vector<std::uint8_t> zeros(static_cast<std::size_t>(rows.rows * groups));
  zeros_to_codes({rows.second, zeros.size()}, zeros.data());
  pack_words(*layout_.zeros, bits, {zeros.data(), rows.rows, groups, groups}, lines(*layout_.zeros, groups, out.zero));
}

void WordRows::unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const {
  const int bits = whole_bits(shape.spec.width);
  const std::int64_t groups = shape.groups_per_row();
  const auto lines = [&](WordLayout layout, std::int64_t cols, const LineBytes<const std::byte>& place) {
    return Lines{place.data, line_stride(layout, bits, cols, place.stride)};
  };
  unpack_words(layout_.codes, bits, lines(layout_.codes, shape.cols, in.codes),
               {rows.codes, rows.rows, shape.cols, shape.cols});
  load_grid(layout_.transposed_scales, shape, in.scale, rows.rows, rows.scale);
  if (!layout_.zeros) return load_grid(layout_.transposed_scales, shape, in.zero, rows.rows, rows.second);
  if (!has_zeros(shape)) {
    std::fill_n(rows.second, rows.rows * groups, static_cast<float>((qmax(shape.spec.width) + 1) / 2));
    return;
  }
  std::vector<std::uint8_t> zeros(static_cast<std::size_t>(rows.rows * groups));
  unpack_words(*layout_.zeros, bits, lines(*layout_.zeros, groups, in.zero), {zeros.data(), rows.rows, groups, groups});
  codes_to_zeros(zeros, rows.second);
}

}  // namespace halfquad
