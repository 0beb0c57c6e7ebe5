#pragma once

#include <string>

namespace halfquad {

/// An optional part of this build, as it is on this machine.
struct Feature {
  std::string name;
  bool available = false;  ///< compiled in and usable here
  std::string detail;      ///< the library's version, or why the part cannot be used
};

/// Needs no MPI_Init and starts nothing.
[[nodiscard]] Feature mpi_feature();

}  // namespace halfquad
