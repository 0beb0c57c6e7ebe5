"""Faults that need real processes: kills, signals, two writers, a full disk, and the memory of the whole program.

Usage: test_processes.py HALFQUAD [unittest arguments]
"""

import array
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HALFQUAD = ""
QUIET = ["--progress", "none", "--log-level", "off"]
DONE, USAGE, IO, INTERRUPTED = 0, 2, 4, 75
DEADLINE = 120  # seconds any one process may take


def digests(output: Path) -> dict:
    """Checksums of what must not depend on how often a run was broken off."""
    names = ["model.safetensors", "config.json"]
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in names}


def write_model(folder: Path, layers: int, rows: int, cols: int) -> int:
    """A checkpoint of large fp32 layers, made quickly; returns its size."""
    rng = random.Random(5)
    block = array.array("f", (rng.gauss(0, 0.02) for _ in range(1 << 16))).tobytes()
    layer_bytes = rows * cols * 4
    header = {
        f"model.layers.{i}.mlp.up_proj.weight": {
            "dtype": "F32",
            "shape": [rows, cols],
            "data_offsets": [i * layer_bytes, (i + 1) * layer_bytes],
        }
        for i in range(layers)
    }
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(layers * layer_bytes // len(block)):
            file.write(block)
        return file.tell()


class ProcessTest(unittest.TestCase):
    def setUp(self):
        self.root = Path(tempfile.mkdtemp(prefix="halfquad-fault-", dir=self.scratch()))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.model = self.root / "model"
        self.out = self.root / "out"
        self.partial = self.root / "out.partial"

    @staticmethod
    def scratch():
        """Where the test works; None: the usual place for temporary files."""
        return None

    def synth(self, layers: int):
        self.run_to_end(["synth", self.model, "--layers", str(layers), "--progress", "none"])

    def start(self, arguments) -> subprocess.Popen:
        command = [HALFQUAD, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        return process

    def run_to_end(self, arguments, code: int = DONE) -> str:
        """Runs to the end with this exit code; returns the error stream."""
        command = [HALFQUAD, *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(ended.returncode, code, ended.stderr)
        return ended.stderr

    def quantize(self, *more) -> list:
        return ["quantize", self.model, self.out, "--threads", "2", *QUIET, *more]

    def wait_for_weights(self, process: subprocess.Popen):
        """Until the weights are being written."""
        deadline = time.monotonic() + DEADLINE
        while not (self.partial / "model.safetensors").exists():
            self.assertIsNone(process.poll(), "the process ended before it wrote anything")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.001)

    def assert_one_error_line(self, text: str, *parts: str):
        self.assertRegex(text, r"\Ahalfquad: error: [^\n]*\n\Z")
        for part in parts:
            self.assertIn(part, text)


class KillTest(ProcessTest):
    @staticmethod
    def scratch():
        # A killed process loses nothing that it wrote, so memory will do, and spares twenty syncs of a busy disk.
        memory = Path("/dev/shm")
        return memory if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30 else None

    def test_killed_at_any_moment_the_next_run_writes_the_same_bytes(self):
        self.synth(layers=130)  # about 200 MB
        start = time.monotonic()
        self.run_to_end(self.quantize())
        seconds = time.monotonic() - start
        expected = digests(self.out)
        rng = random.Random(20)
        broken_off = 0
        for _ in range(40):
            if broken_off == 8:
                break
            shutil.rmtree(self.out, ignore_errors=True)
            start = time.monotonic()
            process = self.start(self.quantize())
            time.sleep(rng.uniform(0, seconds))
            process.kill()
            process.wait(timeout=DEADLINE)
            if self.out.exists():
                self.assertEqual(digests(self.out), expected)
                seconds = min(seconds, time.monotonic() - start)  # the machine has become faster
                continue
            broken_off += 1
            self.run_to_end(self.quantize())
            self.assertEqual(digests(self.out), expected)
            self.assertEqual(sorted(os.listdir(self.root)), ["model", "out"])
        self.assertEqual(broken_off, 8)


class SignalTest(ProcessTest):
    def test_sigterm_under_a_full_pipeline_ends_it_soon_and_a_rerun_works(self):
        write_model(self.model, layers=6, rows=2048, cols=4096)
        # The plain backend is slow enough to be met in the middle of its tiles.
        process = self.start(self.quantize("--backend", "reference"))
        self.wait_for_weights(process)
        time.sleep(0.5)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=DEADLINE)

        self.assertLess(time.monotonic() - start, 5)
        self.assertEqual(process.returncode, INTERRUPTED, error)
        self.assert_one_error_line(error, "interrupted", "run the same command again")
        self.assertFalse(self.out.exists())
        self.run_to_end(self.quantize())
        self.assertEqual(sorted(os.listdir(self.root)), ["model", "out"])

    def test_a_second_signal_ends_it_at_once(self):
        write_model(self.model, layers=2, rows=2048, cols=4096)
        process = self.start(self.quantize("--backend", "reference"))
        self.wait_for_weights(process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)

        # The first may have ended it before the second came.
        self.assertIn(process.returncode, (INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGINT))
        self.assertFalse(self.out.exists())


class TwoWritersTest(ProcessTest):
    def test_the_second_is_refused_and_the_first_goes_on(self):
        self.synth(layers=8)
        self.run_to_end(self.quantize())
        expected = digests(self.out)
        shutil.rmtree(self.out)

        first = self.start(self.quantize("--backend", "reference"))
        self.wait_for_weights(first)
        self.assert_one_error_line(self.run_to_end(self.quantize(), code=USAGE), "another process is writing", "/out")
        _, error = first.communicate(timeout=DEADLINE)

        self.assertEqual(first.returncode, DONE, error)
        self.assertEqual(digests(self.out), expected)


class FullDiskTest(ProcessTest):
    # In a mount namespace of its own, so that nothing is left mounted: a disk with too little room, then the same
    # command after room was made.
    SCRIPT = """
        mount -t tmpfs -o size=40m none "$1/disk" || exit 99
        head -c 30000000 /dev/zero > "$1/disk/filler"
        "$2" quantize "$1/model" "$1/disk/out" --progress none --log-level off
        echo "full: $?"
        ls "$1/disk"
        rm "$1/disk/filler"
        "$2" quantize "$1/model" "$1/disk/out" --progress none --log-level off > "$1/summary"
        echo "room: $?"
        ls "$1/disk"
    """

    def test_a_full_disk_is_told_with_its_free_space_and_room_makes_it_work(self):
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            self.skipTest("mounting a small file system needs root and unshare")
        self.synth(layers=2)
        (self.root / "disk").mkdir()
        command = ["unshare", "-m", "sh", "-c", self.SCRIPT, "sh", str(self.root), HALFQUAD]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        if "full:" not in ended.stdout:
            self.skipTest("no private mount is possible here: " + ended.stderr.strip())

        self.assertEqual(ended.stdout.split(), ["full:", str(IO), "filler", "room:", str(DONE), "out"])
        self.assert_one_error_line(ended.stderr, "/disk/out", "free", "make room")


class MemoryTest(ProcessTest):
    BUDGET = 64 << 20
    ALLOWED_BESIDE = 200 << 20

    def test_a_model_ten_times_the_budget_stays_inside_it(self):
        size = write_model(self.model, layers=3, rows=12288, cols=4096)  # twelve tiles a layer
        self.assertGreater(size, 9 * self.BUDGET)

        report = self.check(self.BUDGET)

        # A layer's tiles are several budgets, so most had to leave memory before the layer's stop step was known.
        self.assertGreater(find(report, "peak_buffer_bytes"), self.BUDGET // 2)

    def test_tiles_held_to_be_written_together_count_too(self):
        budget = 4 * self.BUDGET
        write_model(self.model, layers=3, rows=12288, cols=4096)

        alone = find(self.check(budget), "peak_buffer_bytes")
        shutil.rmtree(self.out)
        held = find(self.check(budget, "--format", "awq"), "peak_buffer_bytes")

        self.assertGreater(held, alone * 3 // 4 + (12288 * 4096 // 2 * 3 // 4))  # most of a tensor's codes

    def check(self, budget: int, *options) -> dict:
        """The report of a job that stays inside its budget."""
        process = self.start(self.quantize("--memory", budget, *options))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, DONE, process.stderr.read())
        self.assertLess(usage.ru_maxrss * 1024, budget + self.ALLOWED_BESIDE)
        report = json.loads((self.out / "halfquad_report.json").read_text())
        self.assertLessEqual(find(report, "peak_buffer_bytes"), budget)
        return report


def find(value, key):
    """The first entry of this name in nested objects."""
    for name, inner in value.items():
        if name == key:
            return inner
        if isinstance(inner, dict) and (found := find(inner, key)) is not None:
            return found
    return None


if __name__ == "__main__":
    HALFQUAD = str(Path(sys.argv[1]).resolve())
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
