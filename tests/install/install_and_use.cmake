# Installs the build into an empty prefix with a space in its path, moves that elsewhere, checks what lies there, and builds
# and runs the consumer.
set(prefix "${WORK_DIR}/a prefix")
set(consumer_build ${WORK_DIR}/consumer)
set(results ${WORK_DIR}/results)
file(REMOVE_RECURSE "${prefix}" "${WORK_DIR}/installed" ${consumer_build} ${results})
file(MAKE_DIRECTORY ${results})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN}\nended with ${result}:\n${output}${errors}")
  endif()
  set(output "${output}" PARENT_SCOPE)
  set(errors "${errors}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix "${WORK_DIR}/installed")
file(RENAME "${WORK_DIR}/installed" "${prefix}")

foreach(file bin/halfquad share/doc/halfquad/LICENSE share/doc/halfquad/README.md share/man/man1/halfquad.1
        share/halfquad/slurm/job.sh share/bash-completion/completions/halfquad share/modulefiles/halfquad/${VERSION})
  if(NOT EXISTS "${prefix}/${file}")
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()
file(GLOB_RECURSE headers RELATIVE "${prefix}/include" "${prefix}/include/*")
list(SORT headers)
set(public halfquad/checkpoint.h halfquad/error.h halfquad/quantize.h halfquad/version.h)
if(NOT headers STREQUAL public)
  message(FATAL_ERROR "the public headers are to be ${public}, but these were installed: ${headers}")
endif()

# What the library shows, and what it does not do: print by itself, or end the process.
file(GLOB_RECURSE library "${prefix}/*/libhalfquad.so")
run(${NM} -D --defined-only "${library}")
string(REGEX MATCHALL "[^ \n]+@@[^\n]+" shown "${output}")
set(functions)
foreach(symbol IN LISTS shown)
  string(REGEX REPLACE "^_ZN8halfquad[0-9]+([a-z_]+)E.*$" "\\1" name "${symbol}")
  if(NOT symbol MATCHES "@@HALFQUAD_[0-9.]+$" OR NOT name MATCHES "^(dequantize|library_version|quantize|quantize_checkpoint|quantized_shape)$")
    message(FATAL_ERROR "the library shows ${symbol}, which is not of its headers")
  endif()
  list(APPEND functions ${name})
endforeach()
list(LENGTH functions count)
if(NOT count EQUAL 5)
  message(FATAL_ERROR "the library is to show 5 functions, not ${functions}")
endif()

run("${prefix}/bin/halfquad" --version)
string(FIND "${output}" "${VERSION}" position)
if(position LESS 0)
  message(FATAL_ERROR "the installed halfquad does not say its version ${VERSION}:\n${output}")
endif()

run(${CMAKE_COMMAND} -S ${CONSUMER_DIR} -B ${consumer_build} -G ${GENERATOR} "-DCMAKE_PREFIX_PATH=${prefix}"
  -DCMAKE_CXX_COMPILER=${COMPILER} -DWANTED_VERSION=${VERSION} -DCMAKE_BUILD_TYPE=Release
  "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Wsign-conversion -Werror")
run(${CMAKE_COMMAND} --build ${consumer_build})

run("${prefix}/bin/halfquad" synth ${results}/model --preset tiny --progress none)
run(${consumer_build}/consumer ${results}/model ${results}/by-library)
set(expected "halfquad ${VERSION}
matrix: 65536 bytes of codes, mean error as told
error of use: group size 64 does not divide 300 weights
checkpoint: 28 layers, 100 % done
")
if(NOT output STREQUAL expected OR NOT errors STREQUAL "")
  message(FATAL_ERROR "the consumer printed\n${output}${errors}instead of\n${expected}")
endif()
run("${prefix}/bin/halfquad" quantize ${results}/model ${results}/by-program --bits 3 --rule down_proj=bits:8 --progress none)
file(SHA256 ${results}/by-library/model.safetensors library_sum)
file(SHA256 ${results}/by-program/model.safetensors program_sum)
if(NOT library_sum STREQUAL program_sum)
  message(FATAL_ERROR "the library and the program made different bytes of the same model")
endif()

# The module file finds the prefix where it lies now.
if(MODULE_COMMAND)
  run(${CMAKE_COMMAND} -E env "MODULEPATH=${prefix}/share/modulefiles"
    sh -c "eval \"$(\"$@\")\" && halfquad --version && echo \"root $HALFQUAD_ROOT\"" sh ${MODULE_COMMAND} halfquad/${VERSION})
  if(NOT output MATCHES "halfquad ${VERSION}" OR NOT output MATCHES "root ${prefix}\n")
    message(FATAL_ERROR "with the module loaded:\n${output}${errors}")
  endif()
else()
  message(STATUS "no environment-modules or Lmod here: the module file was not run")
endif()
