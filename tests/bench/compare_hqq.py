"""Solver rate of the published hqq library (torch on the CPU) beside halfquad's, in one run on the same cores.

usage: compare_hqq.py HALFQUAD [--cores N] [--bits B ...]      needs the packages of tests/interop/requirements.txt

Both get 4096 x 4096 bf16 weights of a Gaussian's shape, group size 64, axis 1, 20 steps, and pack the codes. The
library's early stop is measured as it comes and then taken out, so that both really do 20 steps; halfquad is timed once
told to skip none, and once as it runs: a group whose zero repeats ends early, with the same bytes. halfquad's own
solver, als with its defaults, is timed beside them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

ROWS = COLS = 4096
GROUP_SIZE, STEPS = 64, 20


class Library:
    """The published library with its steps counted."""

    def __init__(self, torch):
        from hqq.core import optimize, quantize

        self.torch, self.optimize, self.quantizer = torch, optimize, quantize.Quantizer
        self.steps = 0
        self.step = optimize.optimize_weights_proximal_legacy_step
        self.with_stop = quantize.Quantizer.optimize_weights
        optimize.optimize_weights_proximal_legacy_step = self.counted_step

    def counted_step(self, *arguments):
        self.steps += 1
        return self.step(*arguments)

    def every_step(self, tensor, scale, zero, min_max, axis, device, opt_params=None, verbose=False):
        """optimize_weights_proximal_legacy of the library without its early stop."""
        with self.torch.inference_mode():
            best = self.torch.tensor(self.torch.inf)
            for _ in range(STEPS):
                restored, codes, zero, scale = self.counted_step(tensor, scale, zero, min_max, 10.0, 0.7, axis)
                best = self.torch.minimum(best, self.torch.abs(tensor - restored).mean().float())
            return self.torch.round(tensor * scale + zero).clamp_(min_max[0], min_max[1]), scale, zero

    def seconds(self, weights, bits, solver, runs):
        """(seconds of the median run, steps per run), after one run to warm up."""
        self.quantizer.optimize_weights = staticmethod(solver)
        times = []
        for _ in range(runs + 1):
            self.steps = 0
            begin = time.perf_counter()
            self.quantizer.quantize(weights, nbits=bits, group_size=GROUP_SIZE, axis=1, optimize=True,
                                    round_zero=bits == 4, device="cpu")
            times.append(time.perf_counter() - begin)
        return statistics.median(times[1:]), self.steps


def halfquad_results(halfquad, bits, cores, solver):
    command = [halfquad, "bench", "solve", "--solver", solver, "--bits", str(bits), "--group-size", str(GROUP_SIZE),
               "--threads", str(cores)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    for line in done.stdout.split("\n"):
        words = line.split(", ")
        if words[0] == "halfquad-bench-1":
            yield dict(zip(words[1::2], words[2::2]))


def compare(library, weights, bits, options):
    as_is, as_is_steps = library.seconds(weights, bits, library.with_stop, options.runs)
    full, full_steps = library.seconds(weights, bits, library.every_step, options.runs)
    if full_steps != STEPS:
        sys.exit(f"the library did {full_steps} steps instead of {STEPS}")
    rate = weights.numel() / full
    print(f"{bits} bit: hqq library  {rate / 1e6:10.2f} Mw/s  ({full_steps} steps, {options.cores} threads; "
          f"as published it stops after {as_is_steps}: {weights.numel() / as_is / 1e6:.2f} Mw/s)")
    best = best_as_it_runs = 0.0
    for result in halfquad_results(options.halfquad, bits, options.cores, "hqq"):
        if result.get("bench") != "solve" or int(result["steps"]) != STEPS or int(result["threads"]) != options.cores:
            continue
        ours = float(result["mweights_per_s_no_step_skipped"]) * 1e6
        as_it_runs = float(result["mweights_per_s"]) * 1e6
        best = max(best, ours / rate)
        best_as_it_runs = max(best_as_it_runs, as_it_runs / rate)
        print(f"       halfquad     {ours / 1e6:10.2f} Mw/s  ({STEPS} steps, {options.cores} threads, {result['isa']}): "
              f"{ours / rate:.0f} times; as it runs {as_it_runs / 1e6:.2f} Mw/s: {as_it_runs / rate:.0f} times")
    if best == 0:
        sys.exit("halfquad bench gave no result to compare with")
    best_als = 0.0
    for result in halfquad_results(options.halfquad, bits, options.cores, "als"):
        if result.get("bench") != "solve" or int(result["threads"]) != options.cores:
            continue
        ours = float(result["mweights_per_s"]) * 1e6
        best_als = max(best_als, ours / rate)
        print(f"       halfquad als {ours / 1e6:10.2f} Mw/s  ({result['starts']} starts of {result['rounds']}, {options.cores} "
              f"threads, {result['isa']}): {ours / rate:.0f} times")
    print(f"halfquad-bench-1, bench, compare_hqq, bits, {bits}, group_size, {GROUP_SIZE}, steps, {STEPS}, threads, "
          f"{options.cores}, hqq_mweights_per_s, {rate / 1e6:.3f}, ratio_no_step_skipped, {best:.1f}, ratio_as_it_runs, {best_as_it_runs:.1f}, "
          f"ratio_als, {best_als:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("halfquad")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bits", type=int, nargs="+", default=[4])
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.cores)
    torch.manual_seed(1)
    weights = (torch.randn(ROWS, COLS) * 0.02).to(torch.bfloat16)
    library = Library(torch)
    for bits in options.bits:
        compare(library, weights, bits, options)


if __name__ == "__main__":
    main()
