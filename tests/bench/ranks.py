"""One job by two ranks against one rank and against one rank with two threads, in turn, in one run.

usage: ranks.py HALFQUAD MPIEXEC DIRECTORY [--preset llama-8b] [--layers 2] [--runs 5] [QUANTIZE-OPTIONS...]

DIRECTORY needs room for the synthetic checkpoint and its output (two layers of llama-8b: 3 GB + 2.3 GB); the checkpoint
is kept for the next run. It is read once beforehand and through the page cache, so the solver sets the pace. Every round
runs each way once, so that what disturbs the machine disturbs all of them; ratios are taken within a round. Prints the
seconds that the report gives (the work) and those of the whole command (with mpirun's start), and ratios of both.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

WAYS = {"1 rank x 1 thread": (1, 1), "2 ranks x 1 thread": (2, 1), "1 rank x 2 threads": (1, 2)}
ONE, TWO_RANKS, TWO_THREADS = WAYS
# Open MPI on a small machine or in a container; see launcher/quickstart.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


def run(command):
    """Seconds of a command; ends the program when it fails."""
    begin = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT}, check=False)
    if ended.returncode != 0:
        sys.exit(f"ranks: failed: {' '.join(command)}")
    return time.perf_counter() - begin


def digest(path):
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            value.update(block)
    return value.hexdigest()


def table(title, seconds):
    """Medians of each way, and of the ratios within the rounds."""
    print(f"\n{title:30} {'median s':>9} {'least s':>9}")
    for way in WAYS:
        print(f"{way:30} {statistics.median(seconds[way]):9.2f} {min(seconds[way]):9.2f}")
    for name, slow, fast, wanted in (
        ("one rank / two ranks", ONE, TWO_RANKS, ">= 1.9"),
        ("two threads / two ranks", TWO_THREADS, TWO_RANKS, ">= 1.0"),
        ("one thread / two threads", ONE, TWO_THREADS, ""),
    ):
        ratios = [a / b for a, b in zip(seconds[slow], seconds[fast])]
        least = min(seconds[slow]) / min(seconds[fast])
        print(f"ratio {name:24} {statistics.median(ratios):9.3f} {least:9.3f}  {wanted}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("halfquad")
    parser.add_argument("mpiexec")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--preset", default="llama-8b")
    parser.add_argument("--layers", default="2")
    parser.add_argument("--runs", type=int, default=5)
    options, extra = parser.parse_known_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    model = options.directory / f"{options.preset}-{options.layers}"
    output = options.directory / f"{options.preset}-{options.layers}-hqq4"
    if not model.exists():
        run([options.halfquad, "synth", str(model), "--preset", options.preset, "--layers", options.layers, "--progress",
             "none"])
    for file in model.iterdir():
        digest(file)  # into the page cache

    work, whole, outputs = {way: [] for way in WAYS}, {way: [] for way in WAYS}, set()
    for number in range(1, options.runs + 1):
        for way, (ranks, threads) in WAYS.items():
            shutil.rmtree(output, ignore_errors=True)
            whole[way].append(run([options.mpiexec, "-n", str(ranks), options.halfquad, "quantize", str(model), str(output),
                                   "--threads", str(threads), "--direct-io", "off", "--progress", "none", *extra]))
            work[way].append(json.loads((output / "halfquad_report.json").read_text())["totals"]["seconds"])
            outputs.add(digest(output / "model.safetensors"))
        print(f"round {number}: " + ", ".join(f"{way} {work[way][-1]:.2f} s" for way in WAYS), flush=True)
    shutil.rmtree(output)
    table("the work", work)
    table("the whole command", whole)
    if len(outputs) != 1:
        sys.exit("ranks: the outputs differ")
    print(f"\nall {3 * options.runs} outputs have the same bytes")


if __name__ == "__main__":
    main()
