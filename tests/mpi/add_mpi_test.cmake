# halfquad_add_mpi_test(NAME <name> TARGET <target> RANKS <n> [ARGS <arguments>] [LABELS <labels>] [TIMEOUT <seconds>]
#                       [EXIT_CODE <code>])
# Registers a program started by mpirun on n ranks of this machine, with label mpi besides. Open MPI is told by its
# environment, which MPICH ignores, that root may start more ranks than there are cores, wherever there is room.
function(halfquad_add_mpi_test)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;TARGET;RANKS;TIMEOUT;EXIT_CODE" "ARGS;LABELS")
  halfquad_test_timeout()
  set(command ${MPIEXEC_EXECUTABLE} -n ${ARG_RANKS} $<TARGET_FILE:${ARG_TARGET}> ${ARG_ARGS})
  if(ARG_EXIT_CODE)
    set(command sh -c "\"$@\" && exit 1 || test $? -eq ${ARG_EXIT_CODE}" sh ${command})
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${command})
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "mpi;${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} PROCESSORS ${ARG_RANKS}
    ENVIRONMENT "${HALFQUAD_MPI_ENVIRONMENT}")
endfunction()

# For tests that call mpirun themselves.
set(HALFQUAD_MPI_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1
  OMPI_MCA_hwloc_base_binding_policy=none  # several jobs at a time would all be bound to the first cores
  OMPI_MCA_btl_vader_single_copy_mechanism=none)  # containers forbid one process to read another's memory
