#!/bin/bash
# build_emulator.sh EMULATOR OUT CUDA: builds the emulator and an empty driver, so that the program looks for devices.
# Where there is a device, or no emulator, there is nothing to build: with_device.sh knows.
set -e
emulator=$1 out=$2 cuda=$3
if [ -e /dev/nvidiactl ]; then echo "a device is here; no emulator is needed"; exit 0; fi
if [ ! -e "$emulator/build.sh" ]; then echo "no emulator in $emulator; set HALFQUAD_CUDAEMU"; exit 0; fi
CUDA_HOME=$cuda bash "$emulator/build.sh" "$out"
echo | ${CXX:-g++} -shared -fPIC -x c++ - -Wl,-soname,libcuda.so.1 -o "$out/libcuda.so.1"
