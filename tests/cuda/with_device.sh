#!/bin/bash
# with_device.sh EMULATOR_BUILD COMMAND...: runs the command on this machine's devices, or on the emulator where there
# is none. Exit status 77 (skipped) where there is neither.
emulator=$1
shift
if [ -e /dev/nvidiactl ]; then exec "$@"; fi
if ! ls "$emulator"/libcudart.so* > /dev/null 2>&1; then
  echo "skipped: neither a CUDA device nor an emulator is here"
  exit 77
fi
export LD_LIBRARY_PATH=$emulator${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$@"
