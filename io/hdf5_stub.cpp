#include "io/hdf5_image.h"
#include "io/hdf5_reader.h"
#include "runtime/error.h"

namespace halfquad {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::kUsage,
              "this build of halfquad has no HDF5: install the HDF5 library and configure with HALFQUAD_WITH_HDF5=ON");
}

}  // namespace

FileImage hdf5_image(const Hdf5Tree&) { refuse(); }

Hdf5File read_hdf5(ReadFile&, std::string_view) { refuse(); }

}  // namespace halfquad
