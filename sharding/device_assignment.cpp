#include "sharding/device_assignment.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>

namespace halfquad {
namespace {

/// A rank that sees a device.
struct Seer {
  std::size_t rank = 0;
  std::size_t index = 0;  // of the device in the rank's view
  bool near = false;
};

/// The devices of one host, in the order the ranks name them.
using HostDevices = std::vector<std::vector<Seer>>;

std::map<std::string, HostDevices> by_host(std::span<const DeviceView> ranks) {
  std::map<std::string, HostDevices> hosts;
  std::map<std::pair<std::string, std::string>, std::size_t> places;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    const DeviceView& view = ranks[rank];
    for (std::size_t i = 0; i < view.devices.size(); ++i) {
      HostDevices& devices = hosts[view.host];
      const auto [place, fresh] = places.try_emplace({view.host, view.devices[i].bus_id}, devices.size());
      if (fresh) devices.emplace_back();
      devices[place->second].push_back({rank, i, view.devices[i].near});
    }
  }
  return hosts;
}

using Assigned = std::vector<std::vector<std::size_t>>;

// Of those who see a device and have fewer than `most`: one near it, then the one with the fewest, then the first.
const Seer* choose(const std::vector<Seer>& seers, const Assigned& assigned, std::size_t most) {
  const Seer* best = nullptr;
  for (const Seer& seer : seers) {
    if (assigned[seer.rank].size() >= most) continue;
    if (best == nullptr || (seer.near && !best->near)) {
      best = &seer;
    } else if (seer.near == best->near && most == std::numeric_limits<std::size_t>::max() &&
               assigned[seer.rank].size() < assigned[best->rank].size()) {
      best = &seer;
    }
  }
  return best;
}

void assign_host(const HostDevices& devices, Assigned& assigned) {
  std::set<std::size_t> ranks;
  for (const std::vector<Seer>& seers : devices) {
    for (const Seer& seer : seers) ranks.insert(seer.rank);
  }
  // Everyone's equal part first; then one more each; then whatever is visible to few.
  const std::size_t part = devices.size() / ranks.size();
  std::vector<bool> taken(devices.size(), false);
  for (const std::size_t most : {part, part + 1, std::numeric_limits<std::size_t>::max()}) {
    for (std::size_t d = 0; d < devices.size(); ++d) {
      if (taken[d]) continue;
      const Seer* seer = choose(devices[d], assigned, most);
      if (seer == nullptr) continue;
      assigned[seer->rank].push_back(seer->index);
      taken[d] = true;
    }
  }
  // More ranks than devices: the rest share, where the fewest do so already.
  std::vector<std::size_t> users(devices.size(), 1);
  for (const std::size_t rank : ranks) {
    if (!assigned[rank].empty()) continue;
    std::optional<std::size_t> best;
    std::size_t index = 0;
    for (std::size_t d = 0; d < devices.size(); ++d) {
      const auto seer = std::find_if(devices[d].begin(), devices[d].end(),
                                     [rank](const Seer& candidate) { return candidate.rank == rank; });
      if (seer == devices[d].end() || (best && users[d] >= users[*best])) continue;
      best = d;
      index = seer->index;
    }
    ++users[*best];
    assigned[rank].push_back(index);
  }
}

}  // namespace

std::vector<std::vector<std::size_t>> assign_devices(std::span<const DeviceView> ranks) {
  Assigned assigned(ranks.size());
  for (const auto& [host, devices] : by_host(ranks)) assign_host(devices, assigned);
  for (std::vector<std::size_t>& devices : assigned) std::sort(devices.begin(), devices.end());
  return assigned;
}

}  // namespace halfquad
