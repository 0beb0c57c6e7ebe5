#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/output_layout.h"

namespace halfquad {

/// One piece of work: a tile of a quantized tensor, or a block of a copied or converted one.
struct WorkItem {
  enum class Kind : std::uint8_t { kTile, kCopy };
  Kind kind = Kind::kTile;
  std::size_t tensor = 0;  ///< kTile: index into OutputLayout::quantized(); kCopy: into OutputLayout::contents().
  std::int64_t index = 0;  ///< Tile number, or block number: those of a converted tensor's sources in order.
  std::uint64_t source_bytes = 0;  ///< Of its weights as they are decoded.
  std::uint64_t output_bytes = 0;
  std::uint64_t read_bytes = 0;  ///< Of the files: fewer where the weights have to be decoded.
};

/// All work of a job in the order it is started: by source file and offset of the tensor, so that reads walk the files.
/// Pure: the same headers and rules give the same plan.
struct Plan {
  std::vector<WorkItem> items;
  std::uint64_t source_bytes = 0;          ///< Of all items.
  std::uint64_t read_bytes = 0;            ///< Of all items: read at least once.
  std::uint64_t output_bytes = 0;          ///< The finished weight file without its header.
  std::uint64_t weights = 0;               ///< To be solved.
  std::uint64_t largest_item_bytes = 0;    ///< The largest buffer one item travels with (ItemBuffer).
  std::uint64_t largest_tensor_bytes = 0;  ///< The buffers of all tiles of the largest quantized tensor.
};

[[nodiscard]] Plan make_plan(const Checkpoint& checkpoint, const OutputLayout& layout);

/// Rates of this machine, as `halfquad bench` measures them. Zero: unknown.
struct Rates {
  double read_bytes_per_s = 0;
  double write_bytes_per_s = 0;
  double weights_per_s_per_core = 0;
};

struct Prediction {
  double seconds = 0;
  double read_seconds = 0, write_seconds = 0, solve_seconds = 0;
  std::string bound;  ///< "reading", "writing" or "solving".
};
[[nodiscard]] Prediction predict(const Plan& plan, const Rates& rates, int threads);

/// Smallest --memory this plan runs with, and what keeps `threads` busy without reading anything twice. Bytes.
[[nodiscard]] std::uint64_t minimum_memory(const Plan& plan) noexcept;
[[nodiscard]] std::uint64_t comfortable_memory(const Plan& plan, int threads) noexcept;

}  // namespace halfquad
