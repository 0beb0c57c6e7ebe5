#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include <mpi.h>

#include "runtime/feature.h"

namespace halfquad {
namespace {

/// "Open MPI v4.1.4, package: ..." -> "Open MPI v4.1.4"; "MPICH Version:\t4.0.2\nMPICH Release date: ..." ->
/// "MPICH 4.0.2".
std::string short_version(std::string_view text) {
  constexpr std::string_view kLabel = " Version:";
  std::string version(text.substr(0, text.find_first_of(",\n")));
  const std::size_t label = version.find(kLabel);
  if (label != std::string::npos) version.erase(label, kLabel.size());
  std::replace(version.begin(), version.end(), '\t', ' ');
  const auto both_spaces = [](char a, char b) { return a == ' ' && b == ' '; };
  version.erase(std::unique(version.begin(), version.end(), both_spaces), version.end());
  return version;
}

}  // namespace

Feature mpi_feature() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) {
    return {.name = "MPI", .available = false, .detail = "the library does not tell its version"};
  }
  return {.name = "MPI", .available = true, .detail = short_version({text.data(), static_cast<std::size_t>(length)})};
}

}  // namespace halfquad
