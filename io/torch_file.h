#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"
#include "runtime/dtype.h"

namespace halfquad {

/// A tensor of a state dict that torch.save() wrote, and where its bytes lie in the file.
struct TorchTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

struct TorchFile {
  std::vector<TorchTensor> tensors;  ///< By offset, bytes, name; tied tensors share their bytes.
  std::string header;                ///< All that decides about the tensors but their data.
};

/// Whether torch.save() gives files such names: *.bin, *.pt, *.pth.
[[nodiscard]] bool is_torch_file_name(std::string_view name) noexcept;

/// Reads all but the data. Throws kBadInput naming `name` and what is wrong: not the zip archive that torch has written
/// since version 1.6, a pickle that is more than a dict of tensors, big-endian data, storages that are missing or of
/// another size than the tensors need.
[[nodiscard]] TorchFile read_torch_file(ReadFile& file, std::string_view name);

}  // namespace halfquad
