"""One job by two ranks against one rank, one rank with two threads, and two unrelated jobs, in turn, in one run.

usage: ranks.py HALFQUAD MPIEXEC DIRECTORY [--preset llama-13b] [--layers 4] [--runs 5] [QUANTIZE-OPTIONS...]

DIRECTORY needs room for the synthetic checkpoint and two outputs (four layers of llama-13b: 3.2 GB + 2 x 1.4 GB); the
checkpoint is kept for the next run. It is read once beforehand and through the page cache, so the solver sets the pace.
Every round runs each way once, so that what disturbs the machine disturbs all of them; ratios are taken within a round.
Prints the seconds that the report gives (the work) and those of the whole command (with mpirun's start), and ratios of
both. Two unrelated jobs at once show what the machine allows: where its cores slow each other down, no program of two
ranks is twice as fast as one.
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

# Ranks, threads, options, and how many such jobs at once.
WAYS = {
    "1 rank x 1 thread": (1, 1, [], 1),
    "2 ranks x 1 thread": (2, 1, ["--assembly", "direct"], 1),
    "2 ranks x 1 thread, gather": (2, 1, ["--assembly", "gather"], 1),
    "1 rank x 2 threads": (1, 2, [], 1),
    "2 jobs of 1 rank x 1 thread": (1, 1, [], 2),
}
ONE, TWO_RANKS, GATHER, TWO_THREADS, TWO_JOBS = WAYS
# Open MPI on a small machine or in a container; see launcher/quickstart.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


def run(*commands):
    """Seconds of commands that run at once; ends the program when one fails."""
    begin = time.perf_counter()
    jobs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **ENVIRONMENT})
            for command in commands]
    if any([job.wait() for job in jobs]):
        sys.exit(f"ranks: failed: {' '.join(commands[0])}")
    return time.perf_counter() - begin


def digest(path):
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            value.update(block)
    return value.hexdigest()


def table(title, seconds):
    """Medians of each way, and of the ratios within the rounds."""
    print(f"\n{title:36} {'median s':>9} {'least s':>9}")
    for way in WAYS:
        print(f"{way:36} {statistics.median(seconds[way]):9.2f} {min(seconds[way]):9.2f}")
    for name, slow, fast, factor, wanted in (
        ("one rank / two ranks", ONE, TWO_RANKS, 1, ">= 1.9 on cores of their own"),
        ("half of two jobs / two ranks", TWO_JOBS, TWO_RANKS, 0.5, ">= 0.95"),
        ("two threads / two ranks", TWO_THREADS, TWO_RANKS, 1, ">= 1.0"),
        ("gather / direct", GATHER, TWO_RANKS, 1, "<= 1.15"),
        ("twice one job / two jobs", ONE, TWO_JOBS, 2, "2.0 on cores of their own"),
    ):
        ratios = [factor * a / b for a, b in zip(seconds[slow], seconds[fast])]
        least = factor * min(seconds[slow]) / min(seconds[fast])
        print(f"ratio {name:30} {statistics.median(ratios):9.3f} {least:9.3f}  {wanted}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("halfquad")
    parser.add_argument("mpiexec")
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--preset", default="llama-13b")
    parser.add_argument("--layers", default="4")
    parser.add_argument("--runs", type=int, default=5)
    options, extra = parser.parse_known_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    model = options.directory / f"{options.preset}-{options.layers}"
    outputs = [options.directory / f"{options.preset}-{options.layers}-hqq4-{i}" for i in range(2)]
    if not model.exists():
        run([options.halfquad, "synth", str(model), "--preset", options.preset, "--layers", options.layers, "--progress",
             "none"])
    for file in model.iterdir():
        digest(file)  # into the page cache

    def job(output, ranks, threads, more):
        shutil.rmtree(output, ignore_errors=True)
        return [options.mpiexec, "-n", str(ranks), options.halfquad, "quantize", str(model), str(output),
                "--threads", str(threads), "--direct-io", "off", "--progress", "none", "--importance", "weights", *more, *extra]

    work, whole, digests = {way: [] for way in WAYS}, {way: [] for way in WAYS}, set()
    for number in range(1, options.runs + 1):
        for way, (ranks, threads, more, jobs) in WAYS.items():
            used = outputs[:jobs]
            whole[way].append(run(*[job(output, ranks, threads, more) for output in used]))
            seconds = [json.loads((output / "halfquad_report.json").read_text())["totals"]["seconds"] for output in used]
            work[way].append(max(seconds))
            digests.update(digest(output / "model.safetensors") for output in used)
        print(f"round {number}: " + ", ".join(f"{way} {work[way][-1]:.2f} s" for way in WAYS), flush=True)
    for output in outputs:
        shutil.rmtree(output)
    table("the work", work)
    table("the whole command", whole)
    if len(digests) != 1:
        sys.exit("ranks: the outputs differ")
    print(f"\nall {(len(WAYS) + 1) * options.runs} outputs have the same bytes")


if __name__ == "__main__":
    main()
