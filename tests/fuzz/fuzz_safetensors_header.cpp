#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "io/safetensors_header.h"
#include "runtime/error.h"
#include "tests/fuzz/input_file.h"

namespace {

void require_contiguous(const halfquad::SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::uint64_t expected = 0;
  for (const halfquad::TensorEntry& tensor : header.tensors) {
    if (tensor.begin != expected || tensor.end < tensor.begin) std::abort();
    expected = tensor.end;
  }
  if (expected != data_bytes) std::abort();
}

}  // namespace

/// Either kBadInput, or tensors that fill the data section exactly and a header that reads back the same when written.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  halfquad::fuzz::InputFile file({data, size});
  try {
    const halfquad::SafetensorsHeader header = halfquad::read_safetensors_header(file, "input");
    const std::uint64_t data_bytes = size - header.data_start;
    require_contiguous(header, data_bytes);
    const std::string again = halfquad::serialize_safetensors_header(header.tensors, header.metadata);
    const auto reread = halfquad::parse_safetensors_header(std::string_view(again).substr(8), data_bytes, "again");
    if (reread.tensors.size() != header.tensors.size() || reread.metadata != header.metadata) std::abort();
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
