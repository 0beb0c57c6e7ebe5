#include "io/gguf_cursor.h"

#include <algorithm>
#include <span>

#include "io/aligned_scratch.h"

namespace halfquad {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 20U;

}  // namespace

std::string_view GgufCursor::take(std::size_t bytes) {
  if (window_.size() - used_ < bytes) {
    begin_ += used_;
    window_.erase(0, used_);
    used_ = 0;
    const std::uint64_t next = begin_ + window_.size();
    const std::size_t wanted = std::max(bytes - window_.size(), kPieceBytes);
    const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(wanted, size_ - next));
    const AlignedScratch scratch(piece);
    const std::span<const std::byte> read = file_.read(next, piece, scratch.bytes());
    window_.append(reinterpret_cast<const char*>(read.data()), read.size());
  }
  const std::string_view taken = std::string_view(window_).substr(used_, bytes);
  used_ += bytes;
  return taken;
}

}  // namespace halfquad
