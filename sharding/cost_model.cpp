#include "sharding/cost_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <boost/json/object.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

struct RateKey {
  std::string_view name;
  double ClusterRates::*rate;
  double unit;
  bool may_be_zero;
};

constexpr std::array<RateKey, 4> kRateKeys = {{
    {"read_gb_per_s_per_node", &ClusterRates::read_bytes_per_s_per_node, 1e9, true},
    {"write_gb_per_s_per_node", &ClusterRates::write_bytes_per_s_per_node, 1e9, true},
    {"file_system_gb_per_s", &ClusterRates::file_system_bytes_per_s, 1e9, true},
    {"mweights_per_s_per_core", &ClusterRates::weights_per_s_per_core, 1e6, false},
}};
constexpr std::string_view kCoresKey = "cores_per_rank";
constexpr int kMaxCores = 4096;
constexpr double kLargestRate = 1e12;  // as typed: whatever is faster is a slip

double number_of(const boost::json::value& value, std::string_view key, std::string_view what) {
  HALFQUAD_REQUIRE(value.is_number(), kBadInput, fmt::format("{}: {} is not a number", what, quoted(key)));
  return value.to_number<double>();
}

void require_known(const boost::json::object& object, std::string_view what) {
  for (const auto& member : object) {
    const std::string_view key(member.key().data(), member.key().size());
    const bool known =
        key == kCoresKey || std::ranges::any_of(kRateKeys, [&](const RateKey& k) { return k.name == key; });
    HALFQUAD_REQUIRE(known, kBadInput,
                     fmt::format("{}: unknown key {}; known are read_gb_per_s_per_node, write_gb_per_s_per_node, "
                                 "file_system_gb_per_s, mweights_per_s_per_core, cores_per_rank",
                                 what, quoted(key)));
  }
}

double seconds_at(double amount, double rate) noexcept { return rate > 0 ? amount / rate : 0; }

}  // namespace

ClusterRates parse_cluster_rates(std::string_view text, std::string_view what) {
  const boost::json::value value = parse_json(text, what);
  HALFQUAD_REQUIRE(value.is_object(), kBadInput, fmt::format("{}: rates are a JSON object of numbers", what));
  const boost::json::object& object = value.get_object();
  require_known(object, what);
  ClusterRates rates;
  std::string assumed;
  const auto find = [&](std::string_view key) {
    const boost::json::value* found = object.if_contains(boost::json::string_view(key.data(), key.size()));
    if (found == nullptr) assumed.append(assumed.empty() ? "" : ", ").append(key);
    return found;
  };
  for (const RateKey& key : kRateKeys) {
    const boost::json::value* given = find(key.name);
    if (given == nullptr) continue;
    const double rate = number_of(*given, key.name, what);
    HALFQUAD_REQUIRE(rate <= kLargestRate && (rate > 0 || (rate == 0 && key.may_be_zero)), kBadInput,
                     fmt::format("{}: {} is {}, not {}", what, quoted(key.name), rate,
                                 key.may_be_zero ? "a rate, or 0 for no limit" : "above 0"));
    rates.*key.rate = rate * key.unit;
  }
  if (const boost::json::value* given = find(kCoresKey)) {
    const double cores = number_of(*given, kCoresKey, what);
    HALFQUAD_REQUIRE(
        cores >= 1 && cores <= kMaxCores && cores == std::floor(cores), kBadInput,
        fmt::format("{}: {} is {}, not a whole number from 1 to {}", what, quoted(kCoresKey), cores, kMaxCores));
    rates.cores_per_rank = static_cast<int>(cores);
  }
  rates.origin = fmt::format("from {}{}{}", what, assumed.empty() ? "" : "; assumed: ", assumed);
  return rates;
}

int Topology::node_of(int rank) const noexcept {
  return static_cast<int>(static_cast<std::int64_t>(rank) * nodes / ranks);
}

void require_valid(const Topology& topology) {
  HALFQUAD_REQUIRE(topology.ranks >= 1 && topology.ranks <= kMaxRanks, kUsage,
                   fmt::format("{} ranks asked for; 1 to {} can be planned", topology.ranks, kMaxRanks));
  HALFQUAD_REQUIRE(topology.nodes >= 1 && topology.nodes <= topology.ranks, kUsage,
                   fmt::format("{} nodes asked for {} ranks; every node has a rank, so give 1 to {}", topology.nodes,
                               topology.ranks, topology.ranks));
}

std::vector<std::uint64_t> item_weights(const Checkpoint& checkpoint, const OutputLayout& layout, const Plan& plan) {
  std::vector<std::uint64_t> weights;
  weights.reserve(plan.items.size());
  for (const WorkItem& item : plan.items) {
    if (item.kind == WorkItem::Kind::kCopy) {
      weights.push_back(0);
      continue;
    }
    const SourceTensor& source = checkpoint.tensors()[layout.quantized()[item.tensor].source];
    weights.push_back(item.source_bytes / static_cast<std::uint64_t>(bytes_of(source.dtype)));
  }
  return weights;
}

ItemSeconds seconds_of(const WorkItem& item, std::uint64_t weights, const ClusterRates& rates) noexcept {
  return {seconds_at(static_cast<double>(item.read_bytes), rates.read_bytes_per_s_per_node),
          seconds_at(static_cast<double>(item.output_bytes), rates.write_bytes_per_s_per_node),
          seconds_at(static_cast<double>(weights), rates.weights_per_s_per_core)};
}

Bound bound_of(const Plan& plan, const ClusterRates& rates, const Topology& topology, double cores) {
  const auto read = static_cast<double>(plan.read_bytes);
  const auto written = static_cast<double>(plan.output_bytes);
  Bound bound;
  bound.read_seconds = seconds_at(read, rates.read_bytes_per_s_per_node * topology.nodes);
  bound.write_seconds = seconds_at(written, rates.write_bytes_per_s_per_node * topology.nodes);
  bound.file_system_seconds = seconds_at(read + written, rates.file_system_bytes_per_s);
  bound.solve_seconds = seconds_at(static_cast<double>(plan.weights), rates.weights_per_s_per_core * cores);
  const std::array<std::pair<double, std::string_view>, 4> stages = {{{bound.solve_seconds, "solving"},
                                                                      {bound.read_seconds, "reading"},
                                                                      {bound.write_seconds, "writing"},
                                                                      {bound.file_system_seconds, "the file system"}}};
  const auto& slowest = *std::ranges::max_element(stages, {}, [](const auto& stage) { return stage.first; });
  bound.seconds = slowest.first;
  bound.name = slowest.second;
  return bound;
}

std::vector<RankLoad> rank_loads(const Plan& plan, const std::vector<std::uint64_t>& weights, int ranks) {
  const WorkQueue queue(plan, ranks, Schedule::kStatic);
  const auto same = [&](std::size_t a, std::size_t b) {
    return plan.items[a].kind == plan.items[b].kind && plan.items[a].tensor == plan.items[b].tensor;
  };
  std::vector<RankLoad> loads(static_cast<std::size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    RankLoad& load = loads[static_cast<std::size_t>(rank)];
    for (const ItemRange& range : queue.share(rank)) {
      load.items += range.size();
      for (std::size_t i = range.begin; i < range.end; ++i) {
        load.read_bytes += plan.items[i].read_bytes;
        load.output_bytes += plan.items[i].output_bytes;
        load.weights += weights[i];
      }
      const bool front = range.begin > 0 && same(range.begin - 1, range.begin);
      const bool back = range.end < plan.items.size() && same(range.end - 1, range.end);
      const bool one = same(range.begin, range.end - 1);
      load.tensors_cut += (front ? 1U : 0U) + (back ? 1U : 0U) - (front && back && one ? 1U : 0U);
    }
  }
  return loads;
}

}  // namespace halfquad
