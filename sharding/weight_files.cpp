#include "sharding/weight_files.h"

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

void WeightFiles::write(std::span<const OutputPiece> pieces) {
  for (const OutputPiece& piece : pieces) {
    HALFQUAD_REQUIRE(piece.entry < layout_.contents().size(), kInternal,
                     fmt::format("there is no output tensor number {}", piece.entry));
    const std::size_t number = layout_.contents()[piece.entry].file;
    File& file = files_[number];
    file.writer.write(piece.entry - layout_.files()[number].begin, piece.offset, piece.data);
    file.unsynced.store(true);  // only now: a sync() that began before may have missed the bytes
  }
}

void WeightFiles::write_constants() {
  for (std::size_t i = 0; i < layout_.contents().size(); ++i) {
    const OutputTensor& content = layout_.contents()[i];
    if (content.kind != OutputTensor::Kind::kConstant) continue;
    write(std::array{OutputPiece{i, 0, std::as_bytes(std::span(content.constant))}});
  }
}

void WeightFiles::sync() {
  for (File& file : files_) {
    if (file.unsynced.exchange(false)) file.writer.sync();
  }
}

void WeightFiles::finish() {
  for (File& file : files_) file.writer.finish();
}

}  // namespace halfquad
