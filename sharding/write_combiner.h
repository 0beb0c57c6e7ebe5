#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/buffer_pool.h"
#include "sharding/output_layout.h"
#include "sharding/output_piece.h"

namespace halfquad {

/// Puts together what tiles of a transposed tensor write: of each of its lines a few hundred bytes, which would each be
/// a request of its own to the file system. It holds the tiles until all of a tensor, or all that there is memory for,
/// is there, and then writes what lies side by side at once. Thread-safe.
class WriteCombiner {
 public:
  /// `data` at `offset` of tensor `entry`. Called from any thread, never twice at a time for one tensor.
  using Write = std::function<void(std::size_t entry, std::uint64_t offset, std::span<const std::byte> data)>;

  /// Least budget that is of use.
  static constexpr std::uint64_t kLeastBytes = 32ULL << 20;

  /// `budget_bytes`: what it may hold, its scratch included. @pre at least kLeastBytes.
  WriteCombiner(const OutputLayout& layout, std::uint64_t budget_bytes, Write write);

  /// Whether tiles of tensor `entry` are for this object: it is transposed.
  [[nodiscard]] bool takes(std::size_t entry) const { return blocks_of(entry).across_runs; }
  /// What one tile has for one tensor, a piece of each line, top to bottom. What it had before there is gone, even
  /// where that was held or is being written. Throws what writing threw, here or in another thread.
  /// @pre takes(pieces.front().entry).
  void add(std::span<const OutputPiece> pieces);
  /// Returns once everything that add() had taken is written; others may add meanwhile. Throws as add().
  void flush();
  /// Largest sum of bytes in use so far.
  [[nodiscard]] std::uint64_t peak_bytes() const { return memory_.peak_bytes() + scratches_.peak_bytes(); }

 private:
  // A tile's part of a tensor, line by line.
  struct Part {
    std::uint64_t column = 0;  // where it begins in each line, in bytes
    std::uint64_t width = 0;   // bytes of it in a line
    Buffer data;
  };
  struct Held {
    std::vector<Part> parts;
    std::uint64_t bytes = 0;
  };
  using Lock = std::unique_lock<std::mutex>;

  [[nodiscard]] const BlockLayout& blocks_of(std::size_t entry) const { return layout_.contents()[entry].blocks; }
  [[nodiscard]] Buffer reserve(Lock& lock, std::size_t entry, std::uint64_t bytes);
  void insert(std::size_t entry, Part part);
  [[nodiscard]] bool is_whole(std::size_t entry) const;
  void wait_for(Lock& lock, std::size_t entry);
  void write_out(Lock& lock, std::size_t entry);
  void write_parts(std::size_t entry, std::vector<Part> parts);
  void write_band(std::size_t entry, std::span<const Part> band, std::span<std::byte> scratch);
  void write_through(Lock& lock, std::span<const OutputPiece> pieces);
  template <class Body>
  void busy(Lock& lock, std::size_t entry, Body body);
  void check_error() const;

  const OutputLayout& layout_;
  const Write write_;
  BufferPool memory_;     // of parts
  BufferPool scratches_;  // what is written at once

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<std::size_t, Held> held_;              // by entry
  std::map<std::size_t, std::uint64_t> writing_;  // entries being written, and since which turn
  std::uint64_t turns_ = 0;
  std::exception_ptr error_;
};

}  // namespace halfquad
