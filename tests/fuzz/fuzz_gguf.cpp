#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "io/gguf.h"
#include "runtime/error.h"
#include "tests/fuzz/input_file.h"

namespace {

void require_inside(const halfquad::GgufHeader& header, std::uint64_t size) {
  std::uint64_t end = header.data_start;
  for (const halfquad::GgufTensor& tensor : header.tensors) {
    const std::uint64_t begin = header.data_start + tensor.offset;
    if (begin < end || begin > size || tensor.bytes() > size - begin) std::abort();
    end = begin + tensor.bytes();
  }
}

/// The image of `header`, padding and data left zero, as a file.
std::string file_of(const halfquad::GgufHeader& header) {
  try {
    halfquad::FileImage image = halfquad::gguf_image(header);
    std::string bytes = std::move(image.fixed.at(0).bytes);
    bytes.resize(static_cast<std::size_t>(image.bytes));
    return bytes;
  } catch (const halfquad::Error&) {
    std::abort();  // what was read can be written
  }
}

}  // namespace

/// Either kBadInput, or tensors that lie in the file one behind the other and a header that reads back the same when
/// written.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  halfquad::fuzz::InputFile file({data, size});
  try {
    const halfquad::GgufHeader header = halfquad::read_gguf_header(file, "input");
    require_inside(header, size);
    const std::string again = file_of(header);
    halfquad::fuzz::InputFile written({reinterpret_cast<const std::uint8_t*>(again.data()), again.size()});
    if (file_of(halfquad::read_gguf_header(written, "again")) != again) std::abort();
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
