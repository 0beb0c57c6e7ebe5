#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/torch_file.h"
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

}  // namespace

/// Either kBadInput, or tensors whose bytes lie in the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  MemoryFile file({data, size});
  try {
    for (const halfquad::TorchTensor& tensor : halfquad::read_torch_file(file, "input").tensors) {
      if (tensor.offset > size || tensor.bytes > size - tensor.offset) std::abort();
    }
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
