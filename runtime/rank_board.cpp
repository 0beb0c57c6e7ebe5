#include "runtime/rank_board.h"

#include <algorithm>

namespace halfquad {

std::optional<SlowestRank> slowest_rank(std::span<const RankProgress> ranks) {
  if (ranks.size() < 2) return std::nullopt;
  std::vector<std::uint64_t> done;
  const RankProgress* slowest = nullptr;
  for (const RankProgress& rank : ranks) {
    done.push_back(rank.source_bytes_done);
    if (rank.ended) continue;
    if (slowest == nullptr || rank.source_bytes_done < slowest->source_bytes_done) slowest = &rank;
  }
  const auto middle = done.begin() + static_cast<std::ptrdiff_t>(done.size() / 2);
  std::nth_element(done.begin(), middle, done.end());
  if (slowest == nullptr || *middle == 0) return std::nullopt;
  return SlowestRank{slowest->rank, slowest->host,
                     static_cast<double>(slowest->source_bytes_done) / static_cast<double>(*middle)};
}

}  // namespace halfquad
