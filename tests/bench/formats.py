"""How long each format of output takes beside hqq's own layout, in one run: the formats take turns, so that all see the
same machine. The seconds of the cores that it took are shown too: other programs on the machine do not count there.

Usage: formats.py HALFQUAD DIR [--runs N] [--preset NAME] [--layers N] [--threads N] [-- further options of quantize]

DIR: where the model and the outputs go; memory (/dev/shm) leaves the disk out of it.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path

FORMATS = ("hqq", "mlx", "torchao", "gguf", "hdf5", "compressed-tensors", "awq", "gptq")
WHOLE_ZEROS = ("compressed-tensors", "awq", "gptq")


def core_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds_of(command: list) -> tuple:
    """By the clock, and of the cores."""
    start, cores = time.monotonic(), core_seconds()
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start, core_seconds() - cores


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("halfquad")
    parser.add_argument("dir", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--preset", default="llama-8b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int)
    options, more = parser.parse_known_args()
    model, out = options.dir / "formats-model", options.dir / "formats-out"
    if not model.exists():
        subprocess.run([options.halfquad, "synth", model, "--preset", options.preset, "--layers", str(options.layers),
                        "--progress", "none"], check=True, stdout=subprocess.DEVNULL)
    threads = ["--threads", options.threads] if options.threads else []
    seconds = {form: [] for form in FORMATS}
    for _ in range(options.runs):
        for form in FORMATS:
            shutil.rmtree(out, ignore_errors=True)
            seconds[form].append(seconds_of([options.halfquad, "quantize", model, out, "--format", form, "--progress", "none",
                                             "--log-level", "off", "--importance", "weights", *threads, *[word for word in more if word != "--"]]))
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(model)
    print(f"# {options.preset}, {options.layers} layers, 4 bit, groups of 64; median of {options.runs} runs in turns")
    for form in FORMATS:
        text = f"{form:20}"
        for what, unit in enumerate(("s", "core s")):
            times = [run[what] for run in seconds[form]]
            ratios = [theirs / ours[what] for theirs, ours in zip(times, seconds["hqq"])]
            text += f" {statistics.median(times):7.2f} {unit}  {statistics.median(ratios):5.2f} of hqq's"
        print(text + ("  (solved for whole zeros)" if form in WHOLE_ZEROS else ""), flush=True)


if __name__ == "__main__":
    main()
