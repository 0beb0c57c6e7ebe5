#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>

#include "io/safetensors_header.h"
#include "runtime/error.h"

namespace {

/// A file that is the fuzzer's input.
class MemoryFile final : public halfquad::ReadFile {
 public:
  explicit MemoryFile(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    if (offset > bytes_.size() || bytes > bytes_.size() - offset || scratch.size() < bytes + kSlack) std::abort();
    const auto wanted = std::as_bytes(bytes_.subspan(static_cast<std::size_t>(offset), bytes));
    std::copy(wanted.begin(), wanted.end(), scratch.begin());
    return scratch.first(bytes);
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

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
  MemoryFile file({data, size});
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
