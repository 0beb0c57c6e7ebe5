#include "sharding/layer_decoder.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/decode.h"
#include "kernels/pack.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "sharding/code_values.h"
#include "sharding/coded_elements.h"
#include "sharding/open_checkpoint.h"
#include "sharding/stored_grid.h"

namespace halfquad {
namespace {

constexpr std::int64_t kPieceElements = 1 << 20;
constexpr std::int64_t kTransposedPieceElements = 4 << 20;  // whose lines are short as it is
constexpr std::size_t kMostSlabs = 10;

using Files = std::span<const std::unique_ptr<ReadFile>>;

struct Range {
  std::int64_t begin = 0, end = 0;
  [[nodiscard]] std::int64_t size() const { return end - begin; }
};

/// The tensors of one layer, to be read from.
class LayerFiles {
 public:
  LayerFiles(const Checkpoint& stored, const StoredLayer& layer) {
    const auto tensor = [&](std::size_t index) {
      return index == StoredLayer::kNoTensor ? SourceTensor{} : stored.tensors()[index];
    };
    codes_ = tensor(layer.codes);
    scale_ = tensor(layer.scale);
    zero_ = tensor(layer.zero);
  }

  [[nodiscard]] const SourceTensor& codes() const { return codes_; }
  [[nodiscard]] const SourceTensor& scale() const { return scale_; }
  [[nodiscard]] const SourceTensor& zero() const { return zero_; }

 private:
  SourceTensor codes_, scale_, zero_;
};

/// Where a read puts its elements.
class ElementWriter {
 public:
  ElementWriter(std::int64_t coded_group, const float* levels, std::byte* out)
      : coded_group_(coded_group), value_(levels), out_(out) {}

  /// Consecutive elements of one group; the first is number `place` of its row of groups.
  void put(const std::uint8_t* codes, std::int64_t count, float scale, float zero, std::int64_t place) {
    if (coded_group_ == 0) {
      for (std::int64_t i = 0; i < count; ++i) put_weight(codes[i], scale, zero);
      return;
    }
    const CodedGrid grid(scale, zero);
    for (std::int64_t i = 0; i < count; ++i) put_coded(codes[i], grid, (place + i) % coded_group_);
  }
  /// One element each of consecutive groups: number `place` of them.
  void put_across(const std::uint8_t* codes, std::int64_t count, const float* scale, const float* zero,
                  std::int64_t place) {
    for (std::int64_t i = 0; i < count; ++i) {
      if (coded_group_ == 0) {
        put_weight(codes[i], scale[i], zero[i]);
      } else {
        put_coded(codes[i], CodedGrid(scale[i], zero[i]), place);
      }
    }
  }

 private:
  void put_weight(std::uint8_t code, float scale, float zero) {
    const float weight = (value_(code) - zero) * scale;
    std::memcpy(out_, &weight, sizeof weight);
    out_ += sizeof weight;
  }
  void put_coded(std::uint8_t code, const CodedGrid& grid, std::int64_t place) {
    const CodedElement element{code, grid.part(place)};
    std::memcpy(out_, &element, sizeof element);
    out_ += sizeof element;
  }

  std::int64_t coded_group_;
  CodeValues value_;
  std::byte* out_;
};

class LayerDecoder : public TensorDecoder {
 public:
  LayerDecoder(const Checkpoint& stored, const StoredLayer& layer, const LayerView& view)
      : layer_(layer), view_(view), tensors_(stored, layer) {}

  void read(Files files, const ByteRange& range, std::span<std::byte> scratch, std::byte* out) const final {
    const auto begin = static_cast<std::int64_t>(range.offset / sizeof(float));
    const auto end = static_cast<std::int64_t>((range.offset + range.bytes) / sizeof(float));
    HALFQUAD_REQUIRE(range.offset % sizeof(float) == 0 && range.bytes % sizeof(float) == 0, kInternal,
                     "a part of an element is wanted");
    ElementWriter writer(view_.coded_group, layer_.values(), out);
    const Source source{files, scratch};
    read_elements(source, {begin, end}, writer);
  }

  [[nodiscard]] double stored_per_byte() const noexcept final {
    const std::uint64_t stored = tensors_.codes().bytes + tensors_.scale().bytes + tensors_.zero().bytes;
    return static_cast<double>(stored) / (static_cast<double>(layer_.rows * layer_.cols) * sizeof(float));
  }

 protected:
  struct Source {
    Files files;
    std::span<std::byte> scratch;
  };
  virtual void read_elements(const Source& source, Range elements, ElementWriter& writer) const = 0;

  static std::vector<std::byte> fetch(const Source& source, const SourceTensor& tensor,
                                      std::span<const ByteRange> ranges) {
    std::vector<std::byte> data(total_bytes(ranges));
    gather_ranges(*source.files[static_cast<std::size_t>(tensor.file)], tensor.offset, ranges, source.scratch,
                  data.data());
    return data;
  }

  StoredLayer layer_;
  LayerView view_;
  LayerFiles tensors_;
};

/// Of the formats that keep whole rows.
class RowLayerDecoder final : public LayerDecoder {
 public:
  using LayerDecoder::LayerDecoder;

 private:
  void read_elements(const Source& source, Range elements, ElementWriter& writer) const override {
    const std::int64_t last = ceil_div(elements.end, layer_.cols);
    for (std::int64_t row = elements.begin / layer_.cols; row < last;) {
      const Range rows{row, std::min(last, next_piece(row))};
      read_piece(source, rows, elements, writer);
      row = rows.end;
    }
  }

  [[nodiscard]] std::int64_t head_rows() const {
    return view_.order.kind == RowOrder::Kind::kSame ? 1 : view_.order.head_rows;
  }

  /// Pieces end where heads and the packer's units do.
  [[nodiscard]] std::int64_t next_piece(std::int64_t row) const {
    const bool transposed = layer_.packer->least_tile_rows() > TileGeometry::kRowStep;
    const std::int64_t elements = transposed ? kTransposedPieceElements : kPieceElements;
    const std::int64_t unit = std::lcm(TileGeometry::kRowStep, head_rows());
    const std::int64_t step = std::max<std::int64_t>(1, elements / layer_.cols / unit) * unit;
    return (row / unit) * unit + step;
  }

  /// The stored rows among which `rows` of the view lie.
  [[nodiscard]] Range stored_rows(Range rows) const {
    const std::int64_t heads = head_rows();
    const std::int64_t begin = view_.first_row + rows.begin / heads * heads;
    const std::int64_t end = view_.first_row + round_up(rows.end, heads);
    return {begin / TileGeometry::kRowStep * TileGeometry::kRowStep,
            std::min(layer_.rows, round_up(end, TileGeometry::kRowStep))};
  }

  void read_piece(const Source& source, Range rows, Range elements, ElementWriter& writer) const {
    const Range stored = stored_rows(rows);
    const RowCuts& cuts = layer_.tiles.cuts();
    std::array<std::vector<std::byte>, 3> held;
    const auto bring = [&](std::size_t part, const RowCut& cut,
                           const SourceTensor& tensor) -> LineBytes<const std::byte> {
      if (cut.empty()) return {};
      held[part] = fetch(source, tensor, cut.ranges(stored.begin, stored.end));
      return {held[part].data(), cut.bytes_in_run(stored.begin, stored.end)};
    };
    const RowPlaces<const std::byte> places{bring(0, cuts.codes, tensors_.codes()),
                                            bring(1, cuts.scale, tensors_.scale()),
                                            bring(2, cuts.zero, tensors_.zero())};
    const std::int64_t cols = layer_.cols;
    const std::int64_t per_row = layer_.tiles.groups_per_row();
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(stored.size() * cols));
    StoredGrid grid;
    grid.scale.resize(static_cast<std::size_t>(stored.size() * per_row));
    grid.second.resize(grid.scale.size());
    layer_.unpack(stored.begin, places, {stored.size(), codes.data(), grid.scale.data(), grid.second.data()});
    grid.derive(layer_.packer->form(layer_.spec));

    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const std::int64_t from = view_.first_row + view_.order.output_row(row) - stored.begin;
      const Range wanted{std::max(elements.begin, row * cols) - row * cols,
                         std::min(elements.end, (row + 1) * cols) - row * cols};
      put_row(codes.data() + from * cols, grid.scale.data() + from * per_row, grid.zero.data() + from * per_row, wanted,
              writer);
    }
  }

  void put_row(const std::uint8_t* codes, const float* scale, const float* zero, Range wanted,
               ElementWriter& writer) const {
    const std::int64_t elems = layer_.tiles.grouped().cols;
    for (std::int64_t col = wanted.begin; col < wanted.end;) {
      const std::int64_t group = col / elems;
      const std::int64_t end = std::min(wanted.end, (group + 1) * elems);
      writer.put(codes + col, end - col, scale[group], zero[group], col);
      col = end;
    }
  }
};

/// Of hqq's own layout: codes of rows far apart share a byte.
class GroupedLayerDecoder final : public LayerDecoder {
 public:
  using LayerDecoder::LayerDecoder;

 private:
  void read_elements(const Source& source, Range elements, ElementWriter& writer) const override {
    const std::int64_t slab_elements = layer_.tiles.packed_rows() * layer_.tiles.grouped().cols;
    for (std::int64_t at = elements.begin; at < elements.end;) {
      const std::int64_t slab = at / slab_elements;
      const std::int64_t end = std::min({elements.end, (slab + 1) * slab_elements, at + kPieceElements});
      read_piece(source, static_cast<std::size_t>(slab), {at, end}, writer);
      at = end;
    }
  }

  void read_piece(const Source& source, std::size_t slab, Range elements, ElementWriter& writer) const {
    const TileGeometry& tiles = layer_.tiles;
    const std::int64_t slab_begin = static_cast<std::int64_t>(slab) * tiles.packed_rows() * tiles.grouped().cols;
    const auto packed_bytes = static_cast<std::uint64_t>(packed_bytes_of(tiles.packing()));
    const ByteRange packed{static_cast<std::uint64_t>(elements.begin - slab_begin) * packed_bytes,
                           static_cast<std::uint64_t>(elements.size()) * packed_bytes};
    const std::vector<std::byte> bytes = fetch(source, tensors_.codes(), {&packed, 1});
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(elements.size()));
    std::array<std::uint8_t*, kMostSlabs> slabs{};
    slabs[slab] = codes.data();
    unpack_codes(tiles.packing(), bytes.data(), elements.size(),
                 std::span(slabs).first(static_cast<std::size_t>(slabs_of(tiles.packing()))));
    if (layer_.tiles.by_columns()) {
      put_lines(source, codes.data(), elements, writer);
    } else {
      put_groups(source, codes.data(), elements, writer);
    }
  }

  [[nodiscard]] std::vector<float> floats(const Source& source, const SourceTensor& tensor, Range groups) const {
    const auto element = static_cast<std::uint64_t>(bytes_of(layer_.stored));
    const ByteRange range{static_cast<std::uint64_t>(groups.begin) * element,
                          static_cast<std::uint64_t>(groups.size()) * element};
    const std::vector<std::byte> bytes = fetch(source, tensor, {&range, 1});
    std::vector<float> values(static_cast<std::size_t>(groups.size()));
    decode_to_f32(bytes.data(), layer_.stored, groups.size(), values.data());
    return values;
  }

  /// Groups are runs of elements, or the whole tensor is one.
  void put_groups(const Source& source, const std::uint8_t* codes, Range elements, ElementWriter& writer) const {
    const std::int64_t elems = layer_.spec.channel_wise ? layer_.tiles.grouped().cols : layer_.rows * layer_.cols;
    const Range groups{elements.begin / elems, ceil_div(elements.end, elems)};
    const std::vector<float> scale = floats(source, tensors_.scale(), groups);
    const std::vector<float> zero = floats(source, tensors_.zero(), groups);
    for (std::int64_t at = elements.begin; at < elements.end;) {
      const std::int64_t group = at / elems;
      const std::int64_t end = std::min(elements.end, (group + 1) * elems);
      const auto number = static_cast<std::size_t>(group - groups.begin);
      writer.put(codes + (at - elements.begin), end - at, scale[number], zero[number], at);
      at = end;
    }
  }

  /// Groups are columns: a line holds one element of each.
  void put_lines(const Source& source, const std::uint8_t* codes, Range elements, ElementWriter& writer) const {
    const std::int64_t width = layer_.tiles.grouped().cols;
    const std::int64_t column = elements.begin % width;
    const bool one_line = column + elements.size() <= width;
    const Range groups = one_line ? Range{column, column + elements.size()} : Range{0, width};
    const std::vector<float> scale = floats(source, tensors_.scale(), groups);
    const std::vector<float> zero = floats(source, tensors_.zero(), groups);
    for (std::int64_t at = elements.begin; at < elements.end;) {
      const std::int64_t line = at / width;
      const std::int64_t end = std::min(elements.end, (line + 1) * width);
      const auto number = static_cast<std::size_t>(at - line * width - groups.begin);
      writer.put_across(codes + (at - elements.begin), end - at, scale.data() + number, zero.data() + number, line);
      at = end;
    }
  }
};

}  // namespace

std::shared_ptr<const TensorDecoder> layer_decoder(const Checkpoint& stored, const StoredLayer& layer,
                                                   const LayerView& view) {
  if (layer.tiles.whole_rows()) return std::make_shared<RowLayerDecoder>(stored, layer, view);
  return std::make_shared<GroupedLayerDecoder>(stored, layer, view);
}

}  // namespace halfquad
