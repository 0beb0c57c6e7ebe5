#include "sharding/weight_files.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"

namespace halfquad {
WeightFiles::WeightFiles(FileSystem& fs, const std::filesystem::path& folder, const OutputLayout& layout,
                         WriteMode mode)
    : layout_(layout) {
  for (const OutputFile& file : layout.files()) {
    files_.emplace_back(ImageWriter(fs, folder / file.name, file.image, layout.slots_of(file), mode));
  }
  write_constants();
}

WeightFiles::WeightFiles(FileSystem& fs, const std::filesystem::path& folder, const OutputLayout& layout,
                         const AttachOptions& options)
    : layout_(layout) {
  for (const OutputFile& file : layout.files()) {
    files_.emplace_back(ImageWriter::attach(fs, folder / file.name, file.image, layout.slots_of(file), options));
  }
}

void WeightFiles::combine(std::uint64_t budget_bytes) {
  if (budget_bytes < WriteCombiner::kLeastBytes) return;
  combiner_.emplace(layout_, budget_bytes,
                    [this](std::size_t entry, std::uint64_t offset, auto data) { write_at(entry, offset, data); });
}

void WeightFiles::write(std::span<const OutputPiece> pieces) {
  while (!pieces.empty()) {
    const std::size_t entry = pieces.front().entry;
    HALFQUAD_REQUIRE(entry < layout_.contents().size(), kInternal,
                     fmt::format("there is no output tensor number {}", entry));
    const auto others =
        std::find_if(pieces.begin(), pieces.end(), [&](const OutputPiece& piece) { return piece.entry != entry; });
    const auto of_entry = pieces.first(static_cast<std::size_t>(others - pieces.begin()));
    if (combiner_ && combiner_->takes(entry)) {
      combiner_->add(of_entry);
    } else {
      for (const OutputPiece& piece : of_entry) write_at(entry, piece.offset, piece.data);
    }
    pieces = pieces.subspan(of_entry.size());
  }
}

void WeightFiles::write_at(std::size_t entry, std::uint64_t offset, std::span<const std::byte> data) {
  const std::size_t number = layout_.contents()[entry].file;
  File& file = files_[number];
  file.writer.write(entry - layout_.files()[number].begin, offset, data);
  file.unsynced.store(true);  // only now: a sync() that began before may have missed the bytes
}

void WeightFiles::write_constants() {
  for (std::size_t i = 0; i < layout_.contents().size(); ++i) {
    const OutputTensor& content = layout_.contents()[i];
    if (content.kind != OutputTensor::Kind::kConstant) continue;
    write(std::array{OutputPiece{i, 0, std::as_bytes(std::span(content.constant))}});
  }
}

void WeightFiles::sync() {
  if (combiner_) combiner_->flush();
  for (File& file : files_) {
    if (file.unsynced.exchange(false)) file.writer.sync();
  }
}

void WeightFiles::finish() {
  if (combiner_) combiner_->flush();
  for (File& file : files_) file.writer.finish();
}

}  // namespace halfquad
