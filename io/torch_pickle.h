#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/dtype.h"

namespace halfquad {

/// A tensor of a state dict, as the pickle of a torch.save() describes it.
struct PickledTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string storage;              ///< Key of the storage it lies in, row-major and without gaps.
  std::uint64_t first_element = 0;  ///< In the storage.
  std::uint64_t elements = 0;       ///< Its own; they lie within the storage.
  std::uint64_t storage_elements = 0;
};

/// The tensors of a pickled state dict, in its order. No code is run: a machine of its own knows the instructions that
/// describe dicts, tensors and their storages, and refuses all others and all other globals by their names. Throws
/// kBadInput naming `file`, and the byte offset or the tensor.
[[nodiscard]] std::vector<PickledTensor> parse_torch_pickle(std::string_view pickle, std::string_view file);

}  // namespace halfquad
