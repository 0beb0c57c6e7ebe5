"""halfquad verify --activations on devices: the figures of the host within the stated tolerance, also when a device fails.

usage: test_output_errors.py HALFQUAD
"""

import json
import os
import subprocess
import sys
import tempfile

HALFQUAD = sys.argv[1]


def run(*arguments, fail=None):
    environment = dict(os.environ)
    if fail:
        environment["CUDAEMU_FAIL"] = fail
    done = subprocess.run([HALFQUAD, *arguments, "--progress", "none"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def compare(host, device, what):
    figures = [[layer["output_error"] for layer in found["layers"]] for found in (host, device)]
    assert len(figures[0]) == len(figures[1]) > 0
    furthest = max(abs(a - b) / a for a, b in zip(*figures))
    tolerance = host["output_error"]["tolerance"]
    print(f"{what}: {device['output_error']['gemm']} and {host['output_error']['gemm']} differ by at most {furthest:.1e}")
    assert furthest <= tolerance, figures


def main():
    with tempfile.TemporaryDirectory() as folder:
        model, output = folder + "/model", folder + "/output"
        run("synth", model, "--layers", "1")
        run("quantize", model, output, "--devices", "none")

        def verify(devices, fail=None, threads="2"):
            done = run("verify", output, "--source", model, "--activations", "12", "--json", "--devices", devices,
                       "--threads", threads, fail=fail)
            return json.loads(done.stdout), done.stderr

        host, _ = verify("none")
        device, warnings = verify("all")
        assert device["output_error"]["gemm"].startswith("cuBLAS "), device["output_error"]
        assert not warnings, warnings
        compare(host, device, "device")
        warned = 0
        for call in range(30, 90, 6):
            found, warnings = verify("all", fail=f"device0:lost@{call}", threads="1")
            warned += "computed on the host" in warnings
            compare(host, found, f"device lost at its call {call}")
        if "CUDAEMU_ORDER" in os.environ and not os.path.exists("/dev/nvidiactl"):
            assert warned > 0, "no failure was met"


if __name__ == "__main__":
    main()
