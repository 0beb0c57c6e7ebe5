"""Lets every call of the CUDA runtime fail in turn, on the emulator: the result is right, or it is an error that says so.

Usage: test_failures.py SOLVE_ONCE
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

RIGHT, REFUSED = 0, 3
# What is made to fail: {n} is the n-th call of that name, or of any on the device.
ANY_CALL = ("device0:lost@{n}", "device0:lost@{n}:cudaErrorECCUncorrectable")
BY_NAME = {
    "cudaMalloc": ("cudaErrorMemoryAllocation", "cudaErrorUnknown"),
    "cudaMallocHost": ("cudaErrorMemoryAllocation",),
    "cudaStreamCreate": ("cudaErrorMemoryAllocation",),
    # An invalid value is no error for ever: nothing tells of it later.
    "cudaMemcpyAsync": ("cudaErrorInvalidValue", "cudaErrorIllegalAddress"),
    "cudaMemcpy2DAsync": ("cudaErrorInvalidValue",),
    "cudaMemsetAsync": ("cudaErrorInvalidValue",),
    "cudaLaunchKernel": ("cudaErrorInvalidConfiguration", "cudaErrorLaunchOutOfResources"),
    "cudaStreamSynchronize": ("cudaErrorUnknown",),
    "launch": ("cudaErrorIllegalAddress", "cudaErrorLaunchTimeout"),
}


def run(program, rule, order):
    environment = dict(os.environ, CUDAEMU_FAIL=rule, CUDAEMU_ORDER=order)
    try:
        done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return f"{rule} ({order}): still running after a minute", False
    if done.returncode not in (RIGHT, REFUSED):
        return f"{rule} ({order}): exit status {done.returncode}\n{done.stdout}{done.stderr}", False
    if done.returncode == REFUSED and not done.stdout.startswith(("cuda", "one ", "the ")):
        return f"{rule} ({order}): unclear: {done.stdout}", False
    return None, done.returncode == REFUSED


def calls_of(program):
    """Calls of each name in a run that goes well."""
    with tempfile.NamedTemporaryFile("r") as trace:
        subprocess.run([program], check=True, env=dict(os.environ, CUDAEMU_TRACE=trace.name))
        return [line for line in trace.read().split("\n") if line]


def main():
    program = sys.argv[1]
    if "LD_LIBRARY_PATH" not in os.environ or os.path.exists("/dev/nvidiactl"):
        print("skipped: failures are made by the emulator, which is not here")
        return 77
    total = len(calls_of(program))
    rules = [rule.format(n=n) for rule in ANY_CALL for n in range(1, total + 2)]
    for name, errors in BY_NAME.items():
        # No name is called more often than all together; a rule that is never met leaves a run that goes well.
        rules += [f"{name}:{n}:{error}" for error in errors for n in range(1, min(total, 40) + 1)]
    failed, refused = [], 0
    with ThreadPoolExecutor(2) as pool:
        for problem, was_refused in pool.map(lambda r: run(program, r[1], ("eager", "late")[r[0] % 2]), enumerate(rules)):
            refused += was_refused
            if problem:
                failed.append(problem)
    print(f"{total} calls; {len(rules)} runs with a failure, {refused} refused, {len(rules) - refused - len(failed)} right")
    print("\n".join(failed))
    if not failed and refused == 0:
        print("no failure was ever met")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
