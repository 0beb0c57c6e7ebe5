#include "sharding/joined_tensor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/decode.h"
#include "sharding/open_checkpoint.h"

namespace halfquad {
namespace {

constexpr std::int64_t kPieceElements = 256 << 10;

using Files = std::span<const std::unique_ptr<ReadFile>>;

/// Reads rows for one call of read().
class RowReader {
 public:
  RowReader(const JoinedTensor& tensor, Files files, std::span<std::byte> scratch)
      : tensor_(tensor), files_(files), scratch_(scratch) {}

  /// Rows [begin, begin + count) to `out`.
  void read(std::int64_t begin, std::int64_t count, float* out) {
    const JoinedPart& first = tensor_.parts.front();
    if (first.order.kind == RowOrder::Kind::kSame) {
      read_floats(first, begin * tensor_.cols, count * tensor_.cols, out);
      return;
    }
    for (std::int64_t row = begin; row < begin + count; ++row, out += tensor_.cols) read_row(row, out);
  }

 private:
  void read_row(std::int64_t row, float* out) {
    for (const JoinedPart& part : tensor_.parts) {
      const RowOrder& order = part.order;
      if (order.kind == RowOrder::Kind::kInterleaved) {
        return read_floats(part, order.output_row(row) * tensor_.cols, tensor_.cols, out);
      }
      const std::int64_t head = row / order.head_rows;
      const std::int64_t inside = row % order.head_rows - order.first;
      if (inside < 0 || inside >= order.count) continue;
      if (order.kind == RowOrder::Kind::kSlice) {
        return read_floats(part, (head * order.count + inside) * tensor_.cols, tensor_.cols, out);
      }
      hold_head(part, head);
      for (std::int64_t col = 0; col < tensor_.cols; ++col) {
        out[col] = held_[static_cast<std::size_t>(col * order.count + inside)];
      }
      return;
    }
    std::fill_n(out, tensor_.cols, 0.0F);
  }

  /// A head of a transposed part, of which every row needs every line.
  void hold_head(const JoinedPart& part, std::int64_t head) {
    if (held_part_ == &part && held_head_ == head) return;
    const std::int64_t count = part.order.count * tensor_.cols;
    held_.resize(static_cast<std::size_t>(count));
    read_floats(part, head * count, count, held_.data());
    held_part_ = &part;
    held_head_ = head;
  }

  void read_floats(const JoinedPart& part, std::int64_t at, std::int64_t count, float* out) {
    const SourceTensor& stored = part.stored;
    const std::int64_t element = bytes_of(stored.dtype);
    const ByteRange range{static_cast<std::uint64_t>((part.start + at) * element),
                          static_cast<std::uint64_t>(count * element)};
    bytes_.resize(range.bytes);
    if (stored.decoder != nullptr) {
      stored.decoder->read(files_, range, scratch_, bytes_.data());
    } else {
      gather_ranges(*files_[static_cast<std::size_t>(stored.file)], stored.offset, {&range, 1}, scratch_,
                    bytes_.data());
    }
    decode_to_f32(bytes_.data(), stored.dtype, count, out);
    if (part.add == 0) return;
    for (std::int64_t i = 0; i < count; ++i) out[i] -= part.add;
  }

  const JoinedTensor& tensor_;
  Files files_;
  std::span<std::byte> scratch_;
  std::vector<std::byte> bytes_;
  std::vector<float> held_;
  const JoinedPart* held_part_ = nullptr;
  std::int64_t held_head_ = 0;
};

class JoinedDecoder final : public TensorDecoder {
 public:
  explicit JoinedDecoder(JoinedTensor tensor) : tensor_(std::move(tensor)) {}

  void read(Files files, const ByteRange& range, std::span<std::byte> scratch, std::byte* out) const override {
    const auto row_bytes = static_cast<std::uint64_t>(tensor_.cols * bytes_of(tensor_.dtype));
    const std::int64_t step = std::max<std::int64_t>(1, kPieceElements / tensor_.cols);
    const std::uint64_t end = range.offset + range.bytes;
    RowReader reader(tensor_, files, scratch);
    std::vector<float> values;
    std::vector<std::byte> encoded;
    for (std::uint64_t at = range.offset; at < end;) {
      const auto row = static_cast<std::int64_t>(at / row_bytes);
      const auto last = static_cast<std::int64_t>((end + row_bytes - 1) / row_bytes);
      const std::int64_t count = std::min(step, last - row);
      values.resize(static_cast<std::size_t>(count * tensor_.cols));
      encoded.resize(static_cast<std::size_t>(count) * row_bytes);
      reader.read(row, count, values.data());
      encode_from_f32(values.data(), tensor_.dtype, count * tensor_.cols, encoded.data());
      const std::uint64_t skip = at - static_cast<std::uint64_t>(row) * row_bytes;
      const std::uint64_t bytes = std::min<std::uint64_t>(encoded.size() - skip, end - at);
      std::memcpy(out, encoded.data() + skip, bytes);
      out += bytes;
      at += bytes;
    }
  }

  [[nodiscard]] double stored_per_byte() const noexcept override { return tensor_.stored_per_byte(); }

 private:
  JoinedTensor tensor_;
};

}  // namespace

bool JoinedTensor::holds(std::int64_t row) const noexcept {
  return std::ranges::any_of(parts, [&](const JoinedPart& part) {
    const RowOrder& order = part.order;
    if (order.kind == RowOrder::Kind::kSame || order.kind == RowOrder::Kind::kInterleaved) return true;
    const std::int64_t inside = row % order.head_rows - order.first;
    return inside >= 0 && inside < order.count;
  });
}

double JoinedTensor::stored_per_byte() const noexcept {
  double bytes = 0;  // for each element
  for (const JoinedPart& part : parts) {
    const RowOrder& order = part.order;
    const bool slice = order.kind == RowOrder::Kind::kSlice || order.kind == RowOrder::Kind::kTransposedSlice;
    const double share = slice ? static_cast<double>(order.count) / static_cast<double>(order.head_rows) : 1;
    const TensorDecoder* const decoder = part.stored.decoder.get();
    bytes += share * (decoder == nullptr ? 1 : decoder->stored_per_byte()) *
             static_cast<double>(bytes_of(part.stored.dtype));
  }
  return bytes / static_cast<double>(bytes_of(dtype));
}

std::shared_ptr<const TensorDecoder> joined_decoder(JoinedTensor tensor) {
  return std::make_shared<JoinedDecoder>(std::move(tensor));
}

}  // namespace halfquad
