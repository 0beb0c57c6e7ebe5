"""Instructions for each weight, counted by the emulator, and the rate of an H100 that follows from them.

Usage: predict_rate.py COUNT_INSTRUCTIONS. Fails when 20 steps of hqq, 4 bits in groups of 64, none left out, come out below
100 billion weights a second.
"""

import os
import re
import subprocess
import sys

# H100 SXM: multiprocessors, fp32 instructions of each in a clock, clock. Every PTX instruction is taken for one of
# these, which is more than the device has to issue: sign and type changes are free there.
MULTIPROCESSORS, LANES, CLOCK = 132, 128, 1.755e9
LEAST_RATE = 100e9


def instructions_a_weight(program, mode):
    done = subprocess.run([program, mode], env=dict(os.environ, CUDAEMU_STATS="1"), capture_output=True, text=True, check=True)
    weights = int(re.search(r"weights (\d+)", done.stdout).group(1))
    kernels = [int(n) for n in re.findall(r"\binstructions (\d+)", done.stderr)]
    decoding = [int(n) for n in re.findall(r"decode_kernel.*\n.*?\binstructions (\d+)", done.stderr)]
    if decoding:
        print(f"decoding: {sum(decoding) / weights:.1f} of them")
    classes = re.search(r"per thread: (.*)", done.stderr)
    return sum(kernels) / weights, classes.group(1).strip() if classes else ""


def main():
    if "LD_LIBRARY_PATH" not in os.environ or os.path.exists("/dev/nvidiactl"):
        print("skipped: instructions are counted by the emulator, which is not here")
        return 77
    limit = MULTIPROCESSORS * LANES * CLOCK / LEAST_RATE
    print(f"H100: {MULTIPROCESSORS} x {LANES} x {CLOCK / 1e9:.3f} GHz = {MULTIPROCESSORS * LANES * CLOCK / 1e12:.2f} T instructions/s; "
          f"{LEAST_RATE / 1e9:.0f} Gw/s allow {limit:.0f} a weight")
    rates = {}
    for mode, text in (("off", "hqq, 20 steps, none left out"), ("on", "hqq, 20 steps, settled groups left alone"),
                       ("fp8", "the same from E4M3 codes with scales of blocks"),
                       ("als", "als, 5 starts of 4 rounds"), ("whole", "whole zeros"),
                       ("whole-als", "whole zeros by als, 5 starts of 4 rounds"),
                       ("nvfp4", "NVFP4, 33 scales"), ("mxfp4", "MXFP4, 5 scales")):
        count, classes = instructions_a_weight(sys.argv[1], mode)
        rates[mode] = MULTIPROCESSORS * LANES * CLOCK / count
        weights = {"off": 64, "on": 64, "fp8": 64, "mxfp4": 32}.get(mode, 16)
        print(f"{text}: {count:.1f} PTX instructions a weight, at most {rates[mode] / 1e9:.0f} Gw/s\n  a thread of {weights} weights: {classes}")
    return 0 if rates["off"] >= LEAST_RATE else 1


if __name__ == "__main__":
    sys.exit(main())
