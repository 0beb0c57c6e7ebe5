#include "io/hdf5_tree.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "runtime/text.h"

namespace halfquad {

bool hdf5_stores(DType dtype) noexcept {
  constexpr std::array kStored = {DType::kU8,  DType::kI8,  DType::kU16, DType::kI16, DType::kF16, DType::kU32,
                                  DType::kI32, DType::kF32, DType::kU64, DType::kI64, DType::kF64};
  return std::ranges::find(kStored, dtype) != kStored.end();
}

std::string_view hdf5_name_defect(std::string_view name) noexcept {
  constexpr std::size_t kLongest = 4096;
  if (name.empty()) return "a part of it is empty";
  if (name == "." || name == "..") return "a part of it is \".\" or \"..\"";
  if (name.size() > kLongest) return "a part of it is longer than 4096 bytes";
  if (name.find('/') != std::string_view::npos) return "it has a slash in it";
  if (name.find('\0') != std::string_view::npos) return "it has a NUL in it";
  if (!is_utf8(name)) return "it is not UTF-8";
  return {};
}

std::string_view hdf5_path_defect(std::string_view path) noexcept {
  for (;;) {
    const std::size_t slash = path.find('/');
    const std::string_view defect = hdf5_name_defect(path.substr(0, slash));
    if (!defect.empty() || slash == std::string_view::npos) return defect;
    path.remove_prefix(slash + 1);
  }
}

}  // namespace halfquad
