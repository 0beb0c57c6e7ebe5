#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/torch_pickle.h"
#include "runtime/error.h"

/// Either kBadInput, or named tensors that lie within their storages.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const halfquad::PickledTensor& tensor : halfquad::parse_torch_pickle(text, "input")) {
      if (tensor.name.empty() || tensor.first_element > tensor.storage_elements) std::abort();
      if (tensor.elements > tensor.storage_elements - tensor.first_element) std::abort();
    }
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
