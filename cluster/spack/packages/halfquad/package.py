# From the root of the sources:
#
#   spack repo add ./cluster/spack
#   spack dev-build halfquad@main +mpi +hdf5 +blas ~cuda
from spack.package import *


class Halfquad(CMakePackage):
    """Data-free quantization of very large language-model checkpoints, over MPI ranks, SIMD lanes and GPUs."""

    license("Apache-2.0")

    version("main")  # of a working copy: spack dev-build

    variant("mpi", default=True, description="Several ranks on one output")
    variant("hdf5", default=True, description="Outputs in HDF5 files")
    variant("blas", default=True, description="Output errors of verify --activations by a BLAS")
    variant("cuda", default=False, description="The module for NVIDIA GPUs")

    depends_on("c", type="build")  # for CMake's checks of HDF5
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("boost@1.81: +json +container")  # a shared Boost.JSON loads Boost.Container
    depends_on("highway@1.0.3:")
    depends_on("cli11")
    depends_on("fmt")
    depends_on("spdlog")
    depends_on("xxhash")
    depends_on("oniguruma")
    depends_on("utf8proc")
    depends_on("mpi", when="+mpi")
    depends_on("hdf5@1.10:", when="+hdf5")
    depends_on("blas", when="+blas")
    depends_on("cuda@12.4:13.0", when="+cuda")

    conflicts("%gcc@:11", msg="halfquad is written in C++20: GCC 12 or later")
    conflicts("%clang@:13", msg="halfquad is written in C++20: Clang 14 or later")

    generator("ninja")

    def cmake_args(self):
        return [
            self.define("HALFQUAD_BUILD_TESTS", False),
            self.define("HALFQUAD_BUILD_BENCH", False),
            self.define_from_variant("HALFQUAD_WITH_MPI", "mpi"),
            self.define_from_variant("HALFQUAD_WITH_HDF5", "hdf5"),
            self.define_from_variant("HALFQUAD_WITH_BLAS", "blas"),
            self.define_from_variant("HALFQUAD_WITH_CUDA", "cuda"),
        ]
