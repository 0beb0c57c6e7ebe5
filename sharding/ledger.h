#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "io/block_digest.h"
#include "sharding/item_record.h"
#include "sharding/output_layout.h"
#include "sharding/plan.h"

namespace halfquad {

/// What became of one quantized tensor.
struct TensorResult {
  ErrorSums error;
  int steps = 0;  ///< Steps begun (0 for rtn and per-tensor).
  bool stopped_early = false;
  std::int64_t zeroed = 0;  ///< Weights set to zero by NonFinite::kZero.
  double seconds = 0;       ///< Worker time spent on its tiles.
};

/// The finished items of a job, whoever finished them and in whichever run. Not thread-safe.
class Ledger {
 public:
  Ledger(const Plan& plan, const OutputLayout& layout);

  /// Returns false, and changes nothing, for an item that is already there. Throws kBadInput for one that cannot be of
  /// this plan.
  bool add(const ItemRecord& record);
  /// The bytes of a constant, which no item writes.
  void add_constants();

  [[nodiscard]] bool complete() const noexcept { return left_ == 0; }
  [[nodiscard]] std::size_t left() const noexcept { return left_; }
  /// One byte an item: 1 when it is finished.
  [[nodiscard]] const std::vector<std::uint8_t>& done() const noexcept { return done_; }
  /// Output tensors whose items are all finished, and their source bytes.
  [[nodiscard]] std::uint64_t tensors_done() const noexcept { return tensors_done_; }
  [[nodiscard]] std::uint64_t source_bytes_done() const noexcept { return source_bytes_done_; }

  [[nodiscard]] const std::vector<TensorResult>& tensors() const noexcept { return tensors_; }
  /// One checksum an output tensor. @pre complete().
  [[nodiscard]] std::vector<std::string> checksums() const;

 private:
  [[nodiscard]] std::size_t entry_of(const WorkItem& item) const;

  const Plan& plan_;
  const OutputLayout& layout_;
  std::vector<std::uint8_t> done_;
  std::size_t left_ = 0;
  std::vector<TensorResult> tensors_;     // one per quantized tensor
  std::vector<BlockDigest> digests_;      // one per output tensor
  std::vector<std::int64_t> open_items_;  // by output tensor
  std::uint64_t tensors_done_ = 0;
  std::uint64_t source_bytes_done_ = 0;
};

}  // namespace halfquad
