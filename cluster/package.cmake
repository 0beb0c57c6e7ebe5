# Debian packages, made by `cpack -G DEB` in a build folder: halfquad (the program, and the library that other programs
# load), halfquad-dev (headers and CMake package) and, where the build has it, halfquad-cuda (the module for GPUs).
# dpkg-shlibdeps finds what they depend on; what is opened only when it is there is recommended.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME halfquad)
set(CPACK_PACKAGE_VENDOR halfquad)
set(CPACK_PACKAGE_CONTACT "halfquad <root@localhost>" CACHE STRING "Maintainer of the Debian packages")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL program development)
if(HALFQUAD_WITH_CUDA)
  list(APPEND CPACK_COMPONENTS_ALL cuda)
endif()
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(this_version "halfquad (= ${PROJECT_VERSION})")

set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME halfquad)
set(CPACK_COMPONENT_PROGRAM_DESCRIPTION
  "halfquad quantizes checkpoints of any size: streamed, over MPI ranks, SIMD lanes and GPUs,\nwith the same bytes each time.")
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
set(recommended)
if(HALFQUAD_WITH_MPI)
  list(APPEND recommended openmpi-bin)
endif()
if(HALFQUAD_WITH_BLAS)
  list(APPEND recommended libopenblas0)
endif()
list(JOIN recommended ", " CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS)

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME halfquad-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "${this_version}")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "Headers and CMake package of the library in halfquad.")

# The CUDA runtime is NVIDIA's: of a package that dpkg-shlibdeps need not know.
set(CPACK_DEBIAN_CUDA_PACKAGE_NAME halfquad-cuda)
set(CPACK_DEBIAN_CUDA_PACKAGE_DEPENDS
  "${this_version}, cuda-cudart-${CUDAToolkit_VERSION_MAJOR}-${CUDAToolkit_VERSION_MINOR}")
set(CPACK_COMPONENT_CUDA_DESCRIPTION
  "The module with which halfquad uses NVIDIA GPUs. It needs NVIDIA's driver and CUDA runtime.")

include(CPack)
