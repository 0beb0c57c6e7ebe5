#include "io/safetensors_writer.h"

#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {

SafetensorsWriter::SafetensorsWriter(FileSystem& fs, const std::filesystem::path& path,
                                     std::vector<TensorEntry> tensors,
                                     const std::map<std::string, std::string>& metadata, WriteMode mode)
    : tensors_(std::move(tensors)) {
  const std::string header = serialize_safetensors_header(tensors_, metadata);
  data_start_ = header.size();
  data_bytes_ = tensors_.empty() ? 0 : tensors_.back().end;
  file_ = fs.create(path, mode);
  file_->allocate(file_bytes());
  file_->write(0, std::as_bytes(std::span(header)));
}

void SafetensorsWriter::write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) {
  HALFQUAD_REQUIRE(tensor < tensors_.size(), kInternal, fmt::format("there is no output tensor number {}", tensor));
  const TensorEntry& entry = tensors_[tensor];
  HALFQUAD_REQUIRE(offset <= entry.bytes() && data.size() <= entry.bytes() - offset, kInternal,
                   fmt::format("{} bytes at offset {} do not fit into the {} of output tensor {}", data.size(), offset,
                               entry.bytes(), quoted(entry.name)));
  const std::uint64_t at = data_start_ + entry.begin + offset;
  file_->write(at, data);
  file_->start_writeback(at, data.size());
}

void SafetensorsWriter::finish() {
  file_->sync();
  file_->close();
}

}  // namespace halfquad
