#include "io/hdf5_feature.h"

#include <string>

#include <hdf5.h>

#include "io/hdf5_library.h"

namespace halfquad {

Feature hdf5_feature() {
  const hdf5::Session session;
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  if (H5get_libversion(&major, &minor, &release) < 0) {
    return {.name = "HDF5", .available = false, .detail = "the library does not tell its version"};
  }
#ifdef H5_HAVE_PARALLEL
  const std::string kind = ", parallel";
#else
  const std::string kind = ", serial";
#endif
  const std::string version = std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release);
  return {.name = "HDF5", .available = true, .detail = version + kind};
}

}  // namespace halfquad
