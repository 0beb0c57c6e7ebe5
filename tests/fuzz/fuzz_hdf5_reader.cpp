#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "io/file_system.h"
#include "io/hdf5_reader.h"
#include "runtime/error.h"

/// HDF5 1.10 loses memory of its own when it meets a damaged file.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace {

class Input final : public halfquad::ReadFile {
 public:
  explicit Input(std::span<const std::byte> bytes) : bytes_(bytes) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    std::ranges::copy(bytes_.subspan(offset, bytes), scratch.begin());
    return scratch.first(bytes);
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace

/// Either kBadInput, or datasets that lie inside the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(std::as_bytes(std::span(data, size)));
  try {
    const halfquad::Hdf5File file = halfquad::read_hdf5(input, "input");
    for (const std::uint64_t offset : file.offsets) {
      if (offset > size) std::abort();
    }
  } catch (const halfquad::Error& error) {
    if (error.code() != halfquad::ErrorCode::kBadInput) std::abort();
  }
  return 0;
}
