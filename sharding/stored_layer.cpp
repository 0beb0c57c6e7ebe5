#include "sharding/stored_layer.h"

namespace halfquad {

SmallTensorReader::SmallTensorReader(FileSystem& fs, const Checkpoint& checkpoint)
    : fs_(fs),
      checkpoint_(checkpoint),
      files_(checkpoint.files().size()),
      scratch_(pool_.acquire(kMaxBytes + ReadFile::kSlack)) {}

std::string SmallTensorReader::read(const SourceTensor& tensor) {
  const auto number = static_cast<std::size_t>(tensor.file);
  if (!files_[number]) files_[number] = fs_.open_read(checkpoint_.files()[number].path, ReadMode::kBuffered);
  const auto bytes = files_[number]->read(tensor.offset, tensor.bytes, scratch_.bytes());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace halfquad
