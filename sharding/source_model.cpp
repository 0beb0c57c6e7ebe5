#include "sharding/source_model.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "io/gguf_files.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"
#include "sharding/gguf_source.h"
#include "sharding/source_rows.h"
#include "sharding/source_tensors.h"

namespace halfquad {
namespace {

constexpr std::size_t kAlign = 64;

/// Reads ranges of a tensor's decoded bytes, some rows at a time.
class RowDecoder final : public TensorDecoder {
 public:
  RowDecoder(std::shared_ptr<const Checkpoint> stored, LogicalTensor tensor)
      : stored_(std::move(stored)), tensor_(std::move(tensor)) {}

  void read(std::span<const std::unique_ptr<ReadFile>> files, const ByteRange& range, std::span<std::byte> scratch,
            std::byte* out) const override {
    const std::uint64_t row_bytes = decoded_row_bytes();
    std::uint64_t at = range.offset;
    const std::uint64_t end = range.offset + range.bytes;
    while (at < end) {
      const auto row = static_cast<std::int64_t>(at / row_bytes);
      const auto last = static_cast<std::int64_t>(ceil_div(end, row_bytes));
      const SourceRows rows{row, std::min(last, row + rows_that_fit(row, last, scratch.size()))};
      const std::span<const std::byte> decoded = decode(files, rows, scratch);
      const std::uint64_t skip = at - static_cast<std::uint64_t>(row) * row_bytes;
      const std::uint64_t bytes = std::min<std::uint64_t>(decoded.size() - skip, end - at);
      std::memcpy(out, decoded.data() + skip, bytes);
      out += bytes;
      at += bytes;
    }
  }

  [[nodiscard]] double stored_per_byte() const noexcept override {
    return stored_bytes_per_row(tensor_) / static_cast<double>(decoded_row_bytes());
  }

  [[nodiscard]] std::optional<ScaledCodes> scaled_codes() const override {
    const bool in_order = tensor_.col_stride == 0 && tensor_.row_stride == tensor_.row_bytes;
    if (tensor_.encoding != SourceEncoding::kBytes || !in_order || tensor_.scale_col_stride != 0) return std::nullopt;
    const SourceTensor& codes = stored_->tensors()[tensor_.data];
    const SourceTensor& scales = stored_->tensors()[tensor_.scale.value()];
    return ScaledCodes{.dtype = tensor_.stored_dtype,
                       .file = codes.file,
                       .offset = codes.offset + tensor_.begin,
                       .scale_dtype = tensor_.scale_dtype,
                       .scale_file = scales.file,
                       .scale_offset = scales.offset + tensor_.scale_begin,
                       .cols = tensor_.header.shape[1],
                       .block_rows = tensor_.block_rows,
                       .block_cols = tensor_.block_cols};
  }

 private:
  [[nodiscard]] std::uint64_t decoded_row_bytes() const noexcept {
    return static_cast<std::uint64_t>(tensor_.header.shape[1] * bytes_of(tensor_.header.dtype));
  }

  static std::uint64_t room(std::uint64_t bytes) { return round_up<std::uint64_t>(bytes, kAlign) + kAlign; }

  [[nodiscard]] std::uint64_t memory_for(SourceRows rows) const {
    const RowSources sources = sources_of_rows(tensor_, rows);
    std::uint64_t longest = 0;
    for (const auto* ranges : {&sources.data, &sources.scale, &sources.zero}) {
      for (const ByteRange& range : *ranges) longest = std::max(longest, range.bytes);
    }
    return room(total_bytes(sources.data)) + room(total_bytes(sources.scale)) + room(total_bytes(sources.zero)) +
           room(static_cast<std::uint64_t>(rows.end - rows.begin) * decoded_row_bytes()) +
           room(round_up(std::min<std::uint64_t>(longest, kReadBytes) + ReadFile::kSlack, kPage)) + kPage;
  }

  [[nodiscard]] std::int64_t rows_that_fit(std::int64_t row, std::int64_t end, std::uint64_t bytes) const {
    std::int64_t count = std::max<std::int64_t>(1, end - row);
    while (count > 1 && memory_for({row, row + count}) > bytes) count = (count + 1) / 2;
    HALFQUAD_REQUIRE(memory_for({row, row + count}) <= bytes, kOutOfMemory,
                     "tensor " + quoted(tensor_.header.name) + ": a single row is too long to be decoded");
    return count;
  }

  [[nodiscard]] std::span<const std::byte> decode(std::span<const std::unique_ptr<ReadFile>> files, SourceRows rows,
                                                  std::span<std::byte> memory) const {
    const auto take = [&memory](std::uint64_t bytes) {
      void* start = memory.data();
      std::size_t left = memory.size();
      std::align(kAlign, bytes, start, left);
      const std::span<std::byte> part(static_cast<std::byte*>(start), bytes);
      memory = std::span(part.data() + bytes, left - bytes);
      return part;
    };
    const RowSources sources = sources_of_rows(tensor_, rows);
    const std::span<std::byte> decoded = take(static_cast<std::uint64_t>(rows.end - rows.begin) * decoded_row_bytes());
    const std::span<std::byte> data = take(total_bytes(sources.data));
    const std::span<std::byte> scale = take(total_bytes(sources.scale));
    const std::span<std::byte> zero = take(total_bytes(sources.zero));
    gather(files, tensor_.data, sources.data, memory, data);
    if (tensor_.scale) gather(files, *tensor_.scale, sources.scale, memory, scale);
    if (tensor_.zero) gather(files, *tensor_.zero, sources.zero, memory, zero);
    decode_rows(tensor_, rows, {data, scale, zero}, decoded.data());
    return decoded;
  }

  void gather(std::span<const std::unique_ptr<ReadFile>> files, std::size_t tensor, std::span<const ByteRange> ranges,
              std::span<std::byte> scratch, std::span<std::byte> out) const {
    void* start = scratch.data();
    std::size_t left = scratch.size();
    std::align(kPage, ReadFile::kSlack, start, left);
    const std::span<std::byte> aligned(static_cast<std::byte*>(start), left / kPage * kPage);
    const std::uint64_t most = std::min<std::uint64_t>(kReadBytes, aligned.size() - ReadFile::kSlack);
    const SourceTensor& stored = stored_->tensors()[tensor];
    std::byte* to = out.data();
    for (const ByteRange& range : ranges) {
      for (std::uint64_t done = 0; done < range.bytes;) {
        const std::uint64_t bytes = std::min(most, range.bytes - done);
        const auto read =
            files[static_cast<std::size_t>(stored.file)]->read(stored.offset + range.offset + done, bytes, aligned);
        std::memcpy(to, read.data(), read.size());
        to += bytes;
        done += bytes;
      }
    }
  }

  static constexpr std::uint64_t kReadBytes = 1 << 20;
  static constexpr std::uint64_t kPage = 4096;

  std::shared_ptr<const Checkpoint> stored_;
  LogicalTensor tensor_;
};

/// Whether the tensor's elements are there, in one piece, as its header says.
bool is_plain_piece(const LogicalTensor& tensor) {
  return tensor.is_verbatim() || (tensor.encoding == SourceEncoding::kPlain && tensor.col_stride == 0 &&
                                  tensor.row_stride == tensor.row_bytes && tensor.header.shape.size() == 2);
}

/// Without what says how the tensors were stored.
std::optional<boost::json::object> plain_config(std::optional<boost::json::object> config) {
  if (!config) return config;
  for (const char* key : {"quantization_config", "compression_config"}) config->erase(key);
  for (auto& [key, value] : *config) {
    if (value.is_object()) value.get_object().erase("quantization_config");
  }
  return config;
}

}  // namespace

Checkpoint open_source(FileSystem& fs, const std::filesystem::path& path) {
  if (const auto gguf = find_gguf_model(fs, path)) return open_gguf_source(fs, *gguf);
  auto stored = std::make_shared<Checkpoint>(fs, path);
  std::vector<LogicalTensor> logical = logical_tensors(*stored);
  if (std::ranges::all_of(logical, &LogicalTensor::is_verbatim) && logical.size() == stored->tensors().size()) {
    return *stored;
  }
  std::vector<SourceTensor> tensors;
  for (LogicalTensor& tensor : logical) {
    SourceTensor& plain = tensors.emplace_back(tensor.header);
    if (tensor.is_verbatim()) continue;
    plain.bytes = static_cast<std::uint64_t>(plain.elements() * bytes_of(plain.dtype));
    if (is_plain_piece(tensor)) {
      plain.offset += tensor.begin;
      continue;
    }
    if (tensor.plain_dtype != plain.dtype) plain.kept_as = tensor.plain_dtype;
    plain.decoder = std::make_shared<RowDecoder>(stored, std::move(tensor));
  }
  return stored->with_tensors(std::move(tensors), plain_config(stored->config()));
}

}  // namespace halfquad
