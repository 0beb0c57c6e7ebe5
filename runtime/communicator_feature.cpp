#include <array>
#include <cstddef>
#include <string>

#include <mpi.h>

#include "runtime/feature.h"

namespace halfquad {

Feature mpi_feature() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) {
    return {.name = "MPI", .available = false, .detail = "the library does not tell its version"};
  }
  const std::string version(text.data(), static_cast<std::size_t>(length));
  // Open MPI adds its build host, MPICH its configure line; the first clause names the library and its version.
  return {.name = "MPI", .available = true, .detail = version.substr(0, version.find_first_of(",\n"))};
}

}  // namespace halfquad
