"""Quantizing a whole checkpoint against merely moving the same bytes, in turn, in one run.

usage: end_to_end.py HALFQUAD DIRECTORY [--preset llama-13b] [--layers N] [--memory 512MiB] [--runs 3] [--dd] [QUANTIZE-OPTIONS...]

DIRECTORY needs room for the synthetic checkpoint and its output (llama-13b: 26 GB + 8 GB); the checkpoint is kept for
the next run. Each run reads all of the checkpoint's weights while writing as many bytes as the output has, with
nothing in between (`halfquad bench io`), then quantizes it. Both read and write past the page cache, so that neither
finds the other's pages there. Prints seconds, their ratio and the largest resident set. With --dd also what dd takes, which
has one request of 16 MiB under way at a time and reads before it writes.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

SETTLE_SECONDS = 5
BLOCK = 16 << 20


def run(command):
    """(seconds, largest resident set in MiB, standard output) of a command; ends the program when it fails."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"end_to_end: failed: {' '.join(command)}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024, output


def settle():
    """Lets the disk forget the blocks of deleted files, which would slow down whoever comes next."""
    os.sync()
    time.sleep(SETTLE_SECONDS)


def dd_seconds(model, target, size):
    """(reading the checkpoint's weights, writing `size` bytes): seconds of dd, past the page cache."""
    reading = sum(run(["dd", f"if={path}", "of=/dev/null", "bs=16M", "iflag=direct", "status=none"])[0]
                  for path in sorted(model.glob("*.safetensors")))
    writing = run(["dd", "if=/dev/zero", f"of={target}", "bs=16M", f"count={-(-size // BLOCK)}", "oflag=direct", "conv=fsync",
                   "status=none"])[0]
    target.unlink()
    return reading, writing


def moved_seconds(line):
    fields = [field.strip() for field in line.split(",")]
    return float(fields[fields.index("seconds") + 1])


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("halfquad")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--preset", default="llama-13b")
    parser.add_argument("--layers")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dd", action="store_true")
    options, extra = parser.parse_known_args()
    suffix = f"-{options.layers}" if options.layers else ""
    options.directory.mkdir(parents=True, exist_ok=True)
    model = options.directory / f"{options.preset}{suffix}"
    output = options.directory / f"{options.preset}{suffix}-hqq4"
    if not model.exists():
        layers = ["--layers", options.layers] if options.layers else []
        run([options.halfquad, "synth", str(model), "--preset", options.preset, *layers, "--progress", "none"])

    quantize = [options.halfquad, "quantize", str(model), str(output), "--overwrite", "--memory", options.memory,
                "--direct-io", "on", "--progress", "none", "--importance", "weights", *extra]
    run(quantize)  # to learn the output's size, and to warm up
    size = (output / "model.safetensors").stat().st_size
    move = [options.halfquad, "bench", "io", "--dir", str(options.directory), "--source", str(model), "--write-bytes",
            str(size), "--mode", "both", "--direct-io", "on", "--runs", "1"]

    ratios, times, largest = [], [], 0.0
    for number in range(1, options.runs + 1):
        settle()
        lines = run(move)[2].splitlines()
        moving = moved_seconds(next(line for line in lines if line.startswith("halfquad-bench-1")))
        shutil.rmtree(output)
        settle()
        quantizing, resident, _ = run(quantize)
        times.append(quantizing)
        ratios.append(quantizing / moving)
        largest = max(largest, resident)
        print(f"run {number}: moving the bytes {moving:.2f} s, quantizing {quantizing:.2f} s, ratio {ratios[-1]:.3f}",
              flush=True)
    print(f"halfquad-bench-1, bench, end_to_end, preset, {options.preset}{suffix}, output_bytes, {size}, runs, "
          f"{options.runs}, median_ratio, {statistics.median(ratios):.3f}, budget, {options.memory}, peak_rss_mib, "
          f"{largest:.0f}")
    if options.dd:
        settle()
        reading, writing = dd_seconds(model, options.directory / "dd", size)
        print(f"dd: reading {reading:.2f} s, writing {writing:.2f} s; quantizing takes "
              f"{statistics.median(times) / (reading + writing):.3f} of both")


if __name__ == "__main__":
    main()
