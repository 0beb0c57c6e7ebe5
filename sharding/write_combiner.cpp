#include "sharding/write_combiner.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kPage = BufferPool::kAlignment;
constexpr std::uint64_t kWriteBytes = 2 << 20;  // at once
constexpr std::uint64_t kScratchBytes = kWriteBytes + kPage;
constexpr std::uint64_t kMostScratches = 4;

}  // namespace

WriteCombiner::WriteCombiner(const OutputLayout& layout, std::uint64_t budget_bytes, Write write)
    : layout_(layout),
      write_(std::move(write)),
      memory_((budget_bytes - kMostScratches * kScratchBytes) / kPage * kPage),
      scratches_(kMostScratches * kScratchBytes) {
  HALFQUAD_REQUIRE(budget_bytes >= kLeastBytes, kInternal, "too little memory to combine writes in");
}

void WriteCombiner::add(std::span<const OutputPiece> pieces) {
  const std::size_t entry = pieces.front().entry;
  const BlockLayout& blocks = blocks_of(entry);
  Part part{pieces.front().offset, pieces.front().data.size(), {}};
  HALFQUAD_REQUIRE(pieces.size() * blocks.run_bytes == blocks.total_bytes, kInternal,
                   "a tile of a transposed tensor does not write all of its lines");
  Lock lock(mutex_);
  part.data = reserve(lock, entry, part.width * pieces.size());
  if (part.data.empty()) return write_through(lock, pieces);
  lock.unlock();
  for (std::size_t line = 0; line < pieces.size(); ++line) {
    const OutputPiece& piece = pieces[line];
    HALFQUAD_REQUIRE(piece.data.size() == part.width && piece.offset == line * blocks.run_bytes + part.column,
                     kInternal, "a tile of a transposed tensor does not write the same part of each line");
    std::memcpy(part.data.bytes().data() + line * part.width, piece.data.data(), part.width);
  }
  lock.lock();
  insert(entry, std::move(part));
  if (is_whole(entry)) write_out(lock, entry);
}

// Waits for room, and makes some. Empty: there will never be enough.
Buffer WriteCombiner::reserve(Lock& lock, std::size_t entry, std::uint64_t bytes) {
  check_error();
  if (bytes > memory_.budget_bytes()) {
    if (held_.contains(entry)) write_out(lock, entry);
    return {};
  }
  while (true) {
    Buffer memory = memory_.try_acquire(bytes);
    if (!memory.empty()) return memory;
    const auto fullest = std::max_element(held_.begin(), held_.end(), [](const auto& one, const auto& other) {
      return one.second.bytes < other.second.bytes;
    });
    if (fullest == held_.end()) {
      changed_.wait(lock);  // others are filling or writing all there is
      check_error();
    } else {
      write_out(lock, fullest->first);
    }
  }
}

void WriteCombiner::insert(std::size_t entry, Part part) {
  Held& held = held_[entry];
  const auto before = std::find_if(held.parts.begin(), held.parts.end(),
                                   [&](const Part& other) { return other.column == part.column; });
  if (before == held.parts.end()) {
    held.bytes += part.data.bytes().size();
    held.parts.push_back(std::move(part));
  } else {
    *before = std::move(part);
  }
  changed_.notify_all();  // now it can be written out for its memory
}

bool WriteCombiner::is_whole(std::size_t entry) const { return held_.at(entry).bytes == blocks_of(entry).total_bytes; }

void WriteCombiner::flush() {
  Lock lock(mutex_);
  const std::map<std::size_t, std::uint64_t> begun = writing_;
  std::vector<std::size_t> entries;
  for (const auto& [entry, held] : held_) entries.push_back(entry);
  for (const std::size_t entry : entries) write_out(lock, entry);
  changed_.wait(lock, [&] {
    return std::none_of(begun.begin(), begun.end(), [&](const auto& old) {
      const auto now = writing_.find(old.first);
      return now != writing_.end() && now->second == old.second;
    });
  });
  check_error();
}

void WriteCombiner::wait_for(Lock& lock, std::size_t entry) {
  changed_.wait(lock, [&] { return !writing_.contains(entry); });
  check_error();
}

// Runs `body` without the lock while nobody else writes the tensor. What it throws is kept for all: others' tiles may
// be lost with it, and their flush() must not say that they are written.
template <class Body>
void WriteCombiner::busy(Lock& lock, std::size_t entry, Body body) {
  writing_[entry] = ++turns_;
  lock.unlock();
  std::exception_ptr error;
  try {
    body();
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  writing_.erase(entry);
  if (error && !error_) error_ = error;
  changed_.notify_all();
  check_error();
}

void WriteCombiner::write_out(Lock& lock, std::size_t entry) {
  wait_for(lock, entry);  // it may be an older result of a tile that is solved again
  auto found = held_.extract(entry);
  if (found.empty()) return;  // another thread wrote it meanwhile
  busy(lock, entry, [&] { write_parts(entry, std::move(found.mapped().parts)); });
}

void WriteCombiner::write_through(Lock& lock, std::span<const OutputPiece> pieces) {
  const std::size_t entry = pieces.front().entry;
  wait_for(lock, entry);
  busy(lock, entry, [&] {
    for (const OutputPiece& piece : pieces) write_(entry, piece.offset, piece.data);
  });
}

void WriteCombiner::write_parts(std::size_t entry, std::vector<Part> parts) {
  std::sort(parts.begin(), parts.end(), [](const Part& one, const Part& other) { return one.column < other.column; });
  const Buffer scratch = scratches_.acquire(kScratchBytes);
  for (std::size_t begin = 0; begin < parts.size();) {
    std::size_t end = begin + 1;
    const auto right_of = [&](const Part& part) { return part.column + part.width; };
    while (end < parts.size() && parts[end].column == right_of(parts[end - 1]) &&
           right_of(parts[end]) - parts[begin].column <= kWriteBytes) {
      ++end;
    }
    write_band(entry, std::span(parts).subspan(begin, end - begin), scratch.bytes());
    begin = end;
  }
}

// Parts that lie side by side.
void WriteCombiner::write_band(std::size_t entry, std::span<const Part> band, std::span<std::byte> scratch) {
  const BlockLayout& blocks = blocks_of(entry);
  const std::uint64_t lines = blocks.total_bytes / blocks.run_bytes;
  const std::uint64_t column = band.front().column;
  const std::uint64_t width = band.back().column + band.back().width - column;
  if (width > kWriteBytes) {  // one part, and wide enough
    for (std::uint64_t line = 0; line < lines; ++line) {
      write_(entry, line * blocks.run_bytes + column, band.front().data.bytes().subspan(line * width, width));
    }
    return;
  }
  // Whole lines follow each other in the file.
  const std::uint64_t at_once = width == blocks.run_bytes ? kWriteBytes / width : 1;
  for (std::uint64_t first = 0; first < lines; first += at_once) {
    const std::uint64_t end = std::min(lines, first + at_once);
    const std::uint64_t offset = first * blocks.run_bytes + column;
    // In memory as in the file's pages, so that it can go past the page cache.
    std::byte* const begin = scratch.data() + (layout_.file_offset(entry) + offset) % kPage;
    std::byte* to = begin;
    for (std::uint64_t line = first; line < end; ++line) {
      for (const Part& part : band) {
        std::memcpy(to, part.data.bytes().data() + line * part.width, part.width);
        to += part.width;
      }
    }
    write_(entry, offset, {begin, static_cast<std::size_t>(to - begin)});
  }
}

void WriteCombiner::check_error() const {
  if (error_) std::rethrow_exception(error_);
}

}  // namespace halfquad
