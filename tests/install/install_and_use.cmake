# Installs the build into an empty prefix with a space in its path, checks what lies there, and builds and runs the consumer.
set(prefix "${WORK_DIR}/a prefix")
set(consumer_build ${WORK_DIR}/consumer)
file(REMOVE_RECURSE "${prefix}" ${consumer_build})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN}\nended with ${result}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix "${prefix}")

foreach(file bin/halfquad include/halfquad/runtime/error.h include/halfquad/kernels/solver.h
        include/halfquad/io/checkpoint.h include/halfquad/sharding/plan.h share/doc/halfquad/LICENSE)
  if(NOT EXISTS "${prefix}/${file}")
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()

run("${prefix}/bin/halfquad" --version)
string(FIND "${output}" "${VERSION}" position)
if(position LESS 0)
  message(FATAL_ERROR "the installed halfquad does not say its version ${VERSION}:\n${output}")
endif()

run(${CMAKE_COMMAND} -S ${CONSUMER_DIR} -B ${consumer_build} -G ${GENERATOR} "-DCMAKE_PREFIX_PATH=${prefix}"
  -DCMAKE_CXX_COMPILER=${COMPILER} -DWANTED_VERSION=${VERSION} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${consumer_build})
run(${consumer_build}/consumer)
