#include "runtime/communicator.h"
#include "runtime/error.h"

namespace halfquad {

std::unique_ptr<Communicator> make_mpi_communicator(std::size_t /*part_bytes*/) {
  throw Error(ErrorCode::kUsage,
              "this halfquad was built without MPI and cannot join a job of several ranks; start it without mpirun or "
              "srun, or install MPI (cluster/install-deps --with mpi) and build with -DHALFQUAD_WITH_MPI=ON");
}

}  // namespace halfquad
