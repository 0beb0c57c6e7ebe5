#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace halfquad {

/// A device as one rank sees it.
struct SeenDevice {
  std::string bus_id;  ///< The same for every rank of the machine.
  std::string name;
  bool near = false;  ///< Attached to the memory of the cores this rank is bound to.
};

/// What one rank sees.
struct DeviceView {
  std::string host;
  std::vector<SeenDevice> devices;
};

/// Which devices each rank uses, as indices into its view, ascending. Every device that some rank sees gets a rank, the
/// ranks of a host get equally many as far as what they see allows, each those near it first; a rank for which none is
/// left shares one. Deterministic.
[[nodiscard]] std::vector<std::vector<std::size_t>> assign_devices(std::span<const DeviceView> ranks);

}  // namespace halfquad
