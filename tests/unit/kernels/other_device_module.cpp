#include "kernels/device.h"

// A module of a version that no program has: for test_device_loader.
extern "C" __attribute__((visibility("default"))) halfquad::DeviceModule* halfquad_device_module(int /*version*/) {
  return nullptr;
}
