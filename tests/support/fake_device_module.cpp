// A module of devices that solve on the host, for tests of the program on machines without any. The environment says
// what they are like: HALFQUAD_FAKE_DEVICES their number, HALFQUAD_FAKE_LOST=DEVICE:CALL one that fails at that call,
// HALFQUAD_FAKE_WRONG=DEVICE one whose bytes are wrong.

#include <cstdlib>
#include <string>

#include "tests/support/fake_devices.h"

namespace halfquad::test {
namespace {

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

FakeFaults faults() {
  FakeFaults faults;
  if (const std::string lost = variable("HALFQUAD_FAKE_LOST"); !lost.empty()) {
    faults.lost_at[std::stoi(lost)] = std::stoi(lost.substr(lost.find(':') + 1));
  }
  if (const std::string wrong = variable("HALFQUAD_FAKE_WRONG"); !wrong.empty()) faults.wrong.insert(std::stoi(wrong));
  return faults;
}

}  // namespace
}  // namespace halfquad::test

extern "C" __attribute__((visibility("default"))) halfquad::DeviceModule* halfquad_device_module(int version) {
  using halfquad::test::FakeDevices;
  if (version != halfquad::kDeviceModuleVersion) return nullptr;
  const std::string count = halfquad::test::variable("HALFQUAD_FAKE_DEVICES");
  static FakeDevices module(count.empty() ? 1 : std::stoi(count), halfquad::test::faults());
  return &module;
}
