#include <cstdlib>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/device_loader.h"
#include "runtime/error.h"

namespace halfquad {
namespace {

using testing::HasSubstr;

class DeviceLoader : public testing::Test {
 protected:
  void TearDown() override { unsetenv("HALFQUAD_CUDA_MODULE"); }
};

TEST_F(DeviceLoader, OpensAModuleOfThisVersion) {
  const LoadedDevices loaded = load_device_module(HALFQUAD_TEST_MODULE);

  ASSERT_NE(loaded.module, nullptr) << loaded.detail;
  EXPECT_EQ(loaded.detail, "");
  EXPECT_EQ(loaded.module->name(), "fake devices");
  EXPECT_FALSE(loaded.module->devices().empty());
  EXPECT_EQ(load_device_module(HALFQUAD_TEST_MODULE).module, loaded.module) << "it is opened once";
}

TEST_F(DeviceLoader, CatchesWhatAModuleThrows) {
  DeviceModule* const module = load_device_module(HALFQUAD_TEST_MODULE).module;
  ASSERT_NE(module, nullptr);

  try {
    (void)module->link_identity(0);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.what();
  }
}

TEST_F(DeviceLoader, TellsOfOtherVersions) {
  const LoadedDevices loaded = load_device_module(HALFQUAD_TEST_OTHER_MODULE);

  EXPECT_EQ(loaded.module, nullptr);
  EXPECT_EQ(loaded.detail, std::string(HALFQUAD_TEST_OTHER_MODULE) + ": belongs to another version of halfquad");
}

TEST_F(DeviceLoader, TellsOfLibrariesThatAreNoModules) {
  const LoadedDevices loaded = load_device_module(HALFQUAD_TEST_NO_MODULE);

  EXPECT_EQ(loaded.module, nullptr);
  EXPECT_EQ(loaded.detail, std::string(HALFQUAD_TEST_NO_MODULE) + ": not a module of halfquad");
}

TEST_F(DeviceLoader, TellsOfFilesThatCannotBeOpened) {
  const LoadedDevices loaded = load_device_module("/nowhere/libhalfquad_cuda.so");

  EXPECT_EQ(loaded.module, nullptr);
  EXPECT_THAT(loaded.detail, HasSubstr("/nowhere/libhalfquad_cuda.so"));
  EXPECT_THAT(loaded.detail, Not(HasSubstr("\n")));
}

TEST_F(DeviceLoader, LooksWhereTheEnvironmentSaysFirst) {
  setenv("HALFQUAD_CUDA_MODULE", "/elsewhere/module.so", 1);

  EXPECT_EQ(find_device_module(), "/elsewhere/module.so");
}

TEST_F(DeviceLoader, LooksBesideTheProgramAndInItsInstallation) {
  setenv("HALFQUAD_CUDA_MODULE", "", 1);
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::filesystem::path beside = folder / "libhalfquad_cuda.so";
  std::filesystem::remove(beside);

  const std::filesystem::path installed = find_device_module();
  std::filesystem::copy_file(HALFQUAD_TEST_NO_MODULE, beside);
  const std::filesystem::path found = find_device_module();
  std::filesystem::remove(beside);

  EXPECT_EQ(installed, folder.parent_path() / HALFQUAD_TEST_LIBRARY_FOLDER / "halfquad" / "libhalfquad_cuda.so");
  EXPECT_EQ(found, beside);
}

}  // namespace
}  // namespace halfquad
