#include "launcher/features.h"

#include <filesystem>
#include <string>
#include <system_error>

#include "io/hdf5_feature.h"
#include "kernels/device_loader.h"

namespace halfquad {

std::vector<Feature> available_features() { return {mpi_feature(), hdf5_feature(), cuda_feature()}; }

Feature cuda_feature() {
  Feature feature{.name = "CUDA", .available = false, .detail = {}};
  const std::filesystem::path file = find_device_module();
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    feature.detail = "not in this build";
    return feature;
  }
  if (!device_driver_present()) {
    feature.detail = "no driver";
    return feature;
  }
  const LoadedDevices loaded = load_device_module(file);
  if (loaded.module == nullptr) {
    feature.detail = loaded.detail;
    return feature;
  }
  const std::size_t devices = loaded.module->devices().size();
  feature.available = devices > 0;
  feature.detail = loaded.module->name();
  if (feature.detail.starts_with("CUDA ")) feature.detail.erase(0, 5);  // the feature's name already
  feature.detail += devices == 0 ? ", no device" : ", " + std::to_string(devices) + " device";
  if (devices > 1) feature.detail += "s";
  return feature;
}

}  // namespace halfquad
