#include "sharding/enclosed_files.h"

#include <algorithm>
#include <memory>

#include "io/hdf5_reader.h"
#include "io/hdf5_tree.h"
#include "runtime/buffer_pool.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/hdf5_model.h"

namespace halfquad {

std::vector<EnclosedFile> enclosed_files(FileSystem& fs, const std::filesystem::path& output) {
  const std::string extension = output.extension().string();
  if ((extension != ".h5" && extension != ".hdf5") || fs.kind(output) != FileKind::kFile) return {};
  const std::unique_ptr<ReadFile> file = fs.open_read(output, ReadMode::kBuffered);
  const Hdf5File read = read_hdf5(*file, output.string());
  const Hdf5StoredModel stored = hdf5_model(read.tree, output.string());
  std::vector<EnclosedFile> found;
  for (std::size_t i = 0; i < stored.model.files.size(); ++i) {
    const Hdf5SideFile& side = stored.model.files[i];
    const std::string_view defect = hdf5_path_defect(side.name);
    HALFQUAD_REQUIRE(defect.empty(), kBadInput,
                     quoted(output.string()) + ": the file " + quoted(side.name) + " " + std::string(defect));
    found.push_back({side.name, output, read.offsets[stored.datasets[hdf5_file_of(stored.model, i)]], side.bytes});
  }
  return found;
}

std::string read_enclosed(FileSystem& fs, const EnclosedFile& file) {
  constexpr std::uint64_t kPiece = 1 << 20;
  BufferPool pool(2 * (kPiece + ReadFile::kSlack));
  const Buffer scratch = pool.acquire(kPiece + ReadFile::kSlack);
  const std::unique_ptr<ReadFile> source = fs.open_read(file.inside, ReadMode::kBuffered);
  std::string content;
  while (content.size() < file.bytes) {
    const std::uint64_t bytes = std::min(kPiece, file.bytes - content.size());
    const auto read = source->read(file.offset + content.size(), static_cast<std::size_t>(bytes), scratch.bytes());
    content.append(reinterpret_cast<const char*>(read.data()), read.size());
  }
  return content;
}

}  // namespace halfquad
