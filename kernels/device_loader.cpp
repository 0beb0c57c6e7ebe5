#include "kernels/device_loader.h"

#include <cstdlib>
#include <dlfcn.h>
#include <system_error>

namespace halfquad {
namespace {

namespace stdfs = std::filesystem;

constexpr char kModuleFile[] = "libhalfquad_cuda.so";

std::string last_loader_error() {
  const char* const text = dlerror();
  return text != nullptr ? text : "unknown error of the dynamic loader";
}

/// Where the file is that holds this code: the program, or the library that another program loaded.
stdfs::path library_folder() {
  Dl_info found{};
  if (dladdr(kModuleFile, &found) == 0 || found.dli_fname == nullptr) return {};
  return stdfs::path(found.dli_fname).parent_path();
}

}  // namespace

bool device_driver_present() noexcept {
  // Left open: whoever asks goes on to use it, and the driver is not made for being unloaded.
  return dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
}

stdfs::path find_device_module() {
  if (const char* const named = std::getenv("HALFQUAD_CUDA_MODULE"); named != nullptr && *named != '\0') return named;
  std::error_code ignored;
  const stdfs::path folder = stdfs::read_symlink("/proc/self/exe", ignored).parent_path();
  const stdfs::path beside = folder / kModuleFile;
  if (stdfs::exists(beside, ignored)) return beside;
  const stdfs::path installed = folder.parent_path() / HALFQUAD_LIBRARY_FOLDER / "halfquad" / kModuleFile;
  if (stdfs::exists(installed, ignored)) return installed;
  const stdfs::path of_library = library_folder() / "halfquad" / kModuleFile;
  return stdfs::exists(of_library, ignored) ? of_library : installed;
}

LoadedDevices load_device_module(const stdfs::path& file) {
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {.detail = last_loader_error()};
  const auto entry = reinterpret_cast<DeviceModuleEntry>(dlsym(library, kDeviceModuleEntry));
  if (entry == nullptr) return {.detail = file.string() + ": not a module of halfquad"};
  DeviceModule* const module = entry(kDeviceModuleVersion);
  if (module == nullptr) return {.detail = file.string() + ": belongs to another version of halfquad"};
  return {.module = module, .detail = {}};
}

}  // namespace halfquad
