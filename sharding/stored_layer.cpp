#include "sharding/stored_layer.h"

namespace halfquad {

float StoredLayer::tensor_scale_of(std::int64_t row) const {
  if (part_scales.empty()) return tensor_scale;
  const std::int64_t part_rows = rows / static_cast<std::int64_t>(part_scales.size());
  return part_scales[static_cast<std::size_t>(row / part_rows)];
}

void StoredLayer::unpack(std::int64_t first_row, const RowPlaces<const std::byte>& in, const LoadedRows& out) const {
  packer->unpack(shape(), in, out);
  if (part_scales.empty()) return;
  const std::int64_t groups = shape().groups_per_row();
  for (std::int64_t i = 0; i < out.rows * groups; ++i) out.scale[i] /= tensor_scale_of(first_row + i / groups);
}

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
