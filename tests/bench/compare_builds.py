"""Speed of this checkout against another revision, both built alike and run in turn, in one sitting.

usage: compare_builds.py REVISION [--runs 5] [--limit 1.10] [--layers 4] [--directory DIR]

Builds REVISION in build/compare/REVISION and this checkout, as it lies there, in build/compare/here. Then it measures the
solver (`halfquad bench solve`, one core) and a whole job (`halfquad quantize` of a synthetic checkpoint of real shapes), one
build after the other, --runs times, in an order that changes sides. Prints the ratio of times, here over REVISION: each is
the median of the ratios of neighbours, beside the smallest and the largest of them, since what else a machine does changes
from one minute to the next. Ends with 1 when a median is above --limit; with 2 when that is all that says so, other ratios
being below 1: then the machine is too busy to tell.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "compare"
BITS = ("4", "3", "2", "8")


def fail(text):
    sys.exit(f"compare: {text}")


def run(command, **options):
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True, **options)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def checkout(revision):
    """(name, sources) of a revision, unpacked once."""
    commit = run(["git", "-C", ROOT, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]).strip()
    source = PLACE / commit / "source"
    if not source.exists():
        half = PLACE / commit / "unpacking"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        archive = PLACE / commit / "source.tar"
        run(["git", "-C", ROOT, "archive", "--output", archive, commit])
        with tarfile.open(archive) as tar:
            tar.extractall(half)
        archive.unlink()
        half.rename(source)
    return commit[:12], source, PLACE / commit / "build"


def build(source, place):
    """The program, built from `source` like the installed one."""
    run(["cmake", "-S", source, "-B", place, "-DCMAKE_BUILD_TYPE=Release", "-DHALFQUAD_BUILD_TESTS=OFF",
         "-DHALFQUAD_BUILD_BENCH=OFF"])
    run(["cmake", "--build", place, "--parallel", os.cpu_count(), "--target", "halfquad"])
    return place / "launcher" / "halfquad"


def solve_seconds(program, bits, seconds):
    """Time of 1 M weights on the fastest SIMD target, as it runs."""
    lines = run([program, "bench", "solve", "--bits", bits, "--group-size", "64", "--runs", "3", "--seconds", seconds])
    for line in lines.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if fields[0] == "halfquad-bench-1":
            return 1 / float(fields[fields.index("mweights_per_s") + 1])
    return fail("bench solve printed no line that begins with halfquad-bench-1")


def job_seconds(program, model, out):
    begin = time.perf_counter()
    run([program, "quantize", model, out, "--importance", "weights", "--overwrite", "--progress", "none", "--log-level", "error"])
    return time.perf_counter() - begin


def measures(options, model):
    """{name: function of (program, name of its build)}, of seconds."""
    found = {f"solver, {bits} bit": lambda program, _, bits=bits: solve_seconds(program, bits, options.seconds)
             for bits in BITS}
    found["whole job"] = lambda program, side: job_seconds(program, model, options.directory / f"out-{side}")
    return found


def compare(programs, measure, runs):
    """Ratios of neighbouring runs, the second program's time over the first's."""
    ratios = []
    for number in range(runs):
        sides = list(programs.items())
        taken = {side: measure(program, side) for side, program in (sides if number % 2 == 0 else sides[::-1])}
        ratios.append(taken[sides[1][0]] / taken[sides[0][0]])
    return ratios


def parse(arguments):
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.10)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one measurement of the solver")
    parser.add_argument("--directory", type=pathlib.Path, default=PLACE / "work")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        fail("--runs wants a positive number")
    return options


def main(arguments):
    options = parse(arguments)
    name, source, place = checkout(options.revision)
    print(f"building {name} and this checkout", flush=True)
    programs = {name: build(source, place), "here": build(ROOT, PLACE / "here")}
    options.directory.mkdir(parents=True, exist_ok=True)
    model = options.directory / f"model-{options.layers}"
    if not model.exists():
        run([programs["here"], "synth", model, "--preset", "llama-8b", "--layers", options.layers, "--progress", "none"])
    slower, unclear = [], []
    print(f"time here over {name}: median of {options.runs} ratios (smallest to largest)")
    for what, measure in measures(options, model).items():
        ratios = compare(programs, measure, options.runs)
        middle = statistics.median(ratios)
        print(f"{what:<16} {middle:6.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)
        if middle > options.limit:
            (unclear if min(ratios) < 1 else slower).append(what)
    if slower:
        fail(f"slower than {options.limit} times {name}: {', '.join(slower)}")
    if unclear:
        print(f"compare: cannot tell about {', '.join(unclear)}: ratios lie on both sides of 1; repeat on a quiet machine, or with more --runs",
              file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
