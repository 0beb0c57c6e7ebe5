# The CUDA language for the device module, where there is a compiler for it. Included by the root; sets
# CMAKE_CUDA_COMPILER, or leaves the build without.
include(CheckLanguage)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80)  # for CMake's own trials; the module's list is below
  set(halfquad_cuda_default ON)
endif()
check_language(CUDA)
if(HALFQUAD_WITH_CUDA AND NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "HALFQUAD_WITH_CUDA is ON, but no CUDA compiler was found. Put nvcc into PATH, name it with "
                      "-DCMAKE_CUDA_COMPILER=, or configure with -DHALFQUAD_WITH_CUDA=OFF.")
endif()
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  if(halfquad_cuda_default)
    # Machine code for each, and PTX for emulators and for devices to come.
    set(CMAKE_CUDA_ARCHITECTURES 80 90)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
      list(APPEND CMAKE_CUDA_ARCHITECTURES 100)
    endif()
  endif()
endif()
