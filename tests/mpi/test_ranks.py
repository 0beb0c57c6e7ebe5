"""One job over several processes: the same bytes however it is divided, and whatever dies, is signalled or is wrong.

Usage: test_ranks.py HALFQUAD MPIEXEC [--kills N] [--layers N] [--seed N] [--model DIR] [unittest arguments]

--kills: how many jobs KillTest breaks off (default 50); --layers: of KillTest's model (default 3, a second each);
--model: a checkpoint of one file for MatrixTest.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

OPTIONS = argparse.Namespace()
QUIET = ["--progress", "none", "--log-level", "off"]
DONE, USAGE, BAD_INPUT, IO, INTERRUPTED = 0, 2, 3, 4, 75
DEADLINE = 120  # seconds any one job may take
SOLVERS = ["--solver", "hqq", "--rule", r"layers?\.1\.=solver:als,bits:3,iters:4"]  # both kinds of tensors that are decided only when all of them was seen
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK=", "PMI_RANK=")


def bf16(rng: random.Random, count: int) -> bytes:
    """Values of sizes between 2^-7 and 2^-3, of both signs; no two stretches alike."""
    values = bytearray(2 * count)
    values[0::2] = rng.randbytes(count)
    values[1::2] = rng.randbytes(count).translate(bytes((0x3C, 0x3D, 0xBC, 0xBD)[i & 3] for i in range(256)))
    return bytes(values)


def shapes_of_layers(layers: int) -> dict:
    """Tensors of four tiles, of one and of a fraction, and kept ones."""
    shapes = {"model.embed_tokens.weight": (8192, 1024)}
    for i in range(layers):
        shapes[f"model.layers.{i}.input_layernorm.weight"] = (4096,)
        shapes[f"model.layers.{i}.self_attn.q_proj.weight"] = (4096, 4096)
        shapes[f"model.layers.{i}.self_attn.k_proj.weight"] = (64, 4096)
        shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (1000, 4096)
    return shapes


def write_model(folder: Path, shapes: dict, sparse: bool = False) -> int:
    """A checkpoint of one file, a hole of zeros if `sparse`; returns its weights' bytes."""
    header, sizes, end = {}, [], 0
    for name, shape in shapes.items():
        sizes.append(shape[0] * (shape[1] if len(shape) > 1 else 1))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + 2 * sizes[-1]]}
        end += 2 * sizes[-1]
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    text = json.dumps(header).encode()
    rng = random.Random(7)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if sparse:
            file.truncate(file.tell() + end)
            return end
        for size in sizes:
            file.write(bf16(rng, size))
    return end


def digest(output: Path) -> str:
    return hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()


def weights_bytes(model: Path) -> int:
    """Bytes of a checkpoint's tensors."""
    total = 0
    for path in model.glob("*.safetensors"):
        with open(path, "rb") as file:
            total += path.stat().st_size - 8 - struct.unpack("<Q", file.read(8))[0]
    return total


def tensors_of(output: Path) -> dict:
    """Digest of each tensor, wherever it lies; for several files as the index says."""
    index = output / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"] if index.exists() else None
    found = {}
    for path in output.glob("*.safetensors"):
        data = path.read_bytes()
        start = 8 + struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:start]).items():
            if name == "__metadata__":
                continue
            if files is not None and files.pop(name) != path.name:
                raise AssertionError(f"the index has {name} in another file than {path.name}")
            begin, end = entry["data_offsets"]
            found[name] = (entry["dtype"], entry["shape"], hashlib.sha256(data[start + begin:start + end]).hexdigest())
    if files:
        raise AssertionError(f"the index names what no file holds: {sorted(files)[:3]}")
    return found


def report_of(output: Path) -> dict:
    return json.loads((output / "halfquad_report.json").read_text())


def errors_of(report: dict) -> list:
    return [{key: value for key, value in layer.items() if key != "seconds"} for layer in report["layers"]]


def cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def what_it_does(pid: int) -> str:
    """Where a process' threads wait in the kernel."""
    try:
        return f"{pid}: " + ", ".join(f"{(task / 'comm').read_text().strip()} {(task / 'stat').read_text().split(') ')[1][0]} "
                                      f"{(task / 'wchan').read_text()}" for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return f"{pid}: gone"


def kill(pid: int, number: int = signal.SIGKILL):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was faster


class RanksTest(unittest.TestCase):
    LAYERS = 3
    OPTIONS_OF_ALL = []  # of every quantize

    @classmethod
    def setUpClass(cls):
        # A killed process loses nothing that it wrote, so memory will do, and spares the syncs of a busy disk.
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30
        cls.root = Path(tempfile.mkdtemp(prefix="halfquad-ranks-", dir=memory if roomy else None))
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.model = cls.root / "model"
        cls.model_bytes = cls.write_model()
        cls.reference = cls.root / "reference"
        command = [OPTIONS.halfquad, "quantize", str(cls.model), str(cls.reference), *cls.OPTIONS_OF_ALL, *QUIET]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE)
        cls.expected = digest(cls.reference)

    @classmethod
    def layers(cls) -> int:
        return cls.LAYERS

    @classmethod
    def shapes(cls) -> dict:
        return shapes_of_layers(cls.layers())

    @classmethod
    def write_model(cls) -> int:
        return write_model(cls.model, cls.shapes())

    def setUp(self):
        self.out = self.root / "out"
        self.partial = self.root / "out.partial"
        self.addCleanup(self.clear)

    def clear(self):
        for pid in self.processes():
            kill(pid)
        for place in (self.out, self.partial):
            shutil.rmtree(place, ignore_errors=True)
        (self.root / "out.partial.lock").unlink(missing_ok=True)

    def quantize(self, *more, model=None, out=None) -> list:
        return [OPTIONS.halfquad, "quantize", model or self.model, out or self.out, *self.OPTIONS_OF_ALL, *QUIET, *more]

    @staticmethod
    def two_programs(first: list, second: list) -> list:
        return [OPTIONS.mpiexec, "-n", "1", *first, ":", "-n", "1", *second]

    @staticmethod
    def mpirun(ranks: int, command: list) -> list:
        return [OPTIONS.mpiexec, "-n", ranks, *command]

    def start(self, command: list) -> subprocess.Popen:
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        return process

    def run_to_end(self, command: list, code: int = DONE, environment=None) -> str:
        """Runs to the end with this exit code; returns the error stream."""
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=DEADLINE, check=False,
                               env={**os.environ, **(environment or {})})
        self.assertEqual(ended.returncode, code, ended.stderr)
        return ended.stderr

    def processes(self) -> list:
        """This test's processes of halfquad, by rank."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(entry / "exe") != OPTIONS.halfquad:
                    continue
                if str(self.root).encode() not in (entry / "cmdline").read_bytes():
                    continue
                variables = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # gone, or not ours
            ranks = [int(v.split("=")[1]) for v in variables if v.startswith(RANK_VARIABLES)]
            found.append((ranks[0] if ranks else 0, int(entry.name)))
        return [pid for _, pid in sorted(found)]

    def wait_for_weights(self, process: subprocess.Popen, ranks: int) -> list:
        """Until the weights are being written; returns the ranks' process ids."""
        deadline = time.monotonic() + DEADLINE
        while not (self.partial / "model.safetensors").exists() or len(self.processes()) < ranks:
            self.assertIsNone(process.poll(), "the job ended before it wrote anything")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        return self.processes()

    def assert_none_left(self, seconds: float = 10):
        deadline = time.monotonic() + seconds
        while left := self.processes():
            self.assertLess(time.monotonic(), deadline, f"processes stayed behind: {list(map(what_it_does, left))}")
            time.sleep(0.02)

    def assert_complete(self):
        self.assertEqual(digest(self.out), self.expected)
        self.assertEqual(sorted(os.listdir(self.out)), sorted(os.listdir(self.reference)))
        left = [name for name in os.listdir(self.root) if name.startswith("out.")]
        self.assertEqual(left, [])

    def assert_one_error_line(self, text: str, *parts: str):
        """mpirun adds lines of its own."""
        lines = [line for line in text.splitlines() if "halfquad: error:" in line]
        self.assertEqual(len(lines), 1, text)
        for part in parts:
            self.assertIn(part, lines[0])


class MatrixTest(RanksTest):
    """--model: a checkpoint that is there; otherwise one of random weights."""
    SHARD_BYTES = 8_000_000  # divides the output into several files
    OPTIONS_OF_ALL = SOLVERS

    @classmethod
    def write_model(cls) -> int:
        if OPTIONS.model is None:
            return super().write_model()
        cls.model = OPTIONS.model
        return weights_bytes(cls.model)

    def check(self, expected: dict, ranks: int, *options):
        shutil.rmtree(self.out, ignore_errors=True)
        self.run_to_end(self.mpirun(ranks, self.quantize(*options)))
        report = report_of(self.out)
        self.assertEqual(report["tensors"], expected["tensors"])
        self.assertEqual(errors_of(report), errors_of(expected))
        self.assertEqual(len(report["ranks"]), ranks)
        self.assertEqual(sum(rank["bytes_read"] for rank in report["ranks"]), self.model_bytes)
        return report

    def test_any_ranks_threads_and_schedule_write_the_same_bytes(self):
        expected = report_of(self.reference)
        for ranks, threads, schedule in itertools.product((1, 2, 3, 4, 8), (1, 2), ("dynamic", "static")):
            with self.subTest(ranks=ranks, threads=threads, schedule=schedule):
                report = self.check(expected, ranks, "--threads", threads, "--schedule", schedule)
                self.assert_complete()
                if (ranks, schedule) == (3, "static"):
                    # Every rank had a share, so tensors were divided.
                    self.assertTrue(all(rank["bytes_read"] > 0 for rank in report["ranks"]))
                    self.run_to_end([OPTIONS.halfquad, "verify", self.out, "--source", self.model])

    def test_any_assembly_writes_the_same_bytes(self):
        expected = report_of(self.reference)
        for ranks, assembly, schedule in itertools.product((1, 2, 3, 4, 8), ("direct", "gather"), ("dynamic", "static")):
            with self.subTest(ranks=ranks, assembly=assembly, schedule=schedule):
                report = self.check(expected, ranks, "--threads", 1, "--assembly", assembly, "--schedule", schedule)
                self.assert_complete()
                gathered = ranks > 1 and assembly == "gather"
                self.assertEqual(report["assembly"]["how"], "gather" if gathered else "direct")
                self.assertEqual(report["assembly"]["writers"], 1 if gathered else ranks)
                if gathered:
                    self.assertGreater(report["ranks"][0]["bytes_received"], 0)

    def test_shards_hold_the_same_tensors_whoever_writes_them(self):
        expected = report_of(self.reference)
        whole = tensors_of(self.reference)
        shards = set()
        for ranks, assembly in itertools.product((1, 2, 3, 4, 8), ("direct", "gather")):
            with self.subTest(ranks=ranks, assembly=assembly):
                self.check(expected, ranks, "--threads", 1, "--assembly", assembly, "--max-shard-size", self.SHARD_BYTES)
                self.assertGreater(len(list(self.out.glob("model-*.safetensors"))), 2)
                self.assertEqual(tensors_of(self.out), whole)
                shards.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest()
                                 for path in sorted(self.out.glob("model*"))))
        self.assertEqual(len(shards), 1)
        self.run_to_end([OPTIONS.halfquad, "verify", self.out, "--source", self.model])


class KillTest(RanksTest):
    RANKS = (1, 2, 3, 4)
    ASSEMBLIES = ("direct", "gather")
    OPTIONS_OF_ALL = ["--iters", "400", *SOLVERS]  # a small model that takes seconds

    @classmethod
    def layers(cls) -> int:
        return OPTIONS.layers

    def job(self, ranks: int, assembly: str = "direct") -> list:
        return self.mpirun(ranks, self.quantize("--threads", "1", "--assembly", assembly))

    def measure_whole_jobs(self):
        """Seconds of a job, and of computing in it, by ranks."""
        self.whole, self.whole_cpu = {}, {}
        for ranks in self.RANKS:
            start, before = time.monotonic(), os.times()
            self.run_to_end(self.job(ranks))
            after = os.times()
            self.whole[ranks] = time.monotonic() - start
            used = after.children_user + after.children_system - before.children_user - before.children_system
            self.whole_cpu[ranks] = used
            self.assert_complete()
            shutil.rmtree(self.out)

    def break_off(self, rng: random.Random, ranks: int) -> float:
        """Kills one rank, mpirun alone, or everything, at some moment of a job assembled either way; returns the seconds of computing until then."""
        process = self.start(self.job(ranks, rng.choice(self.ASSEMBLIES)))
        start = time.monotonic()
        while len(self.processes()) < ranks and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, self.whole[ranks]))
        self.whole[ranks] = min(self.whole[ranks], time.monotonic() - start) if self.out.exists() else self.whole[ranks]
        pids = self.processes()
        cpu = sum(map(cpu_seconds, pids))
        one = [rng.choice(pids)] if pids else []
        victims = rng.choice([one, one, [process.pid], [process.pid, *pids]])
        for pid in victims:
            kill(pid)
        process.communicate(timeout=DEADLINE)
        self.assert_none_left()
        if victims and not self.out.exists():
            self.assertNotEqual(process.returncode, DONE)
        return cpu

    def test_killed_at_any_moment_a_rerun_with_other_ranks_writes_the_same_bytes(self):
        rng = random.Random(OPTIONS.seed)
        self.measure_whole_jobs()
        kills, late, lost, continued = 0, 0, [], 0
        while kills < OPTIONS.kills:
            times = rng.choice((1, 1, 1, 2, 3))  # a rerun is broken off too now and then
            cpu = 0.0
            for _ in range(times):
                cpu += self.break_off(rng, rng.choice(self.RANKS))
                if self.out.exists():
                    break
                kills += 1
            if self.out.exists():
                late += 1
                self.assert_complete()
                self.clear()
                continue
            self.run_to_end(self.job(rng.choice(self.RANKS), rng.choice(self.ASSEMBLIES)))
            self.assert_complete()
            resumed = report_of(self.out)["resumed"]
            self.assertEqual(resumed["pieces_damaged"], 0)
            kept = resumed["source_bytes"] / self.model_bytes * self.whole_cpu[1]
            lost.append(max(0.0, cpu - kept) / times)
            continued += kept > 0
            shutil.rmtree(self.out)
        print(f"\n{kills} kills, {late} came too late, {continued} of {len(lost)} reruns continued; "
              "seconds of computing in a whole job: "
              + ", ".join(f"{seconds:.1f} with {ranks} ranks" for ranks, seconds in self.whole_cpu.items())
              + f"; and lost per kill: median {statistics.median(lost):.2f}, at most {max(lost):.2f}")
        self.assertGreater(continued, 0)
        self.assertLessEqual(statistics.median(lost), 2.0)


class SignalTest(RanksTest):
    RANKS = 3

    def signal(self, number: int, target):
        """Interrupts a job by a signal to mpirun (None) or a rank; returns its exit code and error stream."""
        # The plain backend is slow enough to be met in the middle of its tiles.
        command = self.quantize("--threads", "1", "--backend", "reference")
        process = self.start(self.mpirun(self.RANKS, command))
        ranks = self.wait_for_weights(process, self.RANKS)
        time.sleep(0.3)
        start = time.monotonic()
        kill(process.pid if target is None else ranks[target], number)
        _, error = process.communicate(timeout=DEADLINE)
        self.assertLess(time.monotonic() - start, 5)
        self.assert_none_left()
        self.assertFalse(self.out.exists())
        return process.returncode, error

    def continue_job(self):
        self.run_to_end(self.mpirun(2, self.quantize("--threads", "1")))
        self.assert_complete()
        shutil.rmtree(self.out)

    def test_a_signal_to_any_rank_ends_the_job_to_be_continued(self):
        for number, rank in ((signal.SIGTERM, 0), (signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGUSR1, 0)):
            with self.subTest(signal=number, rank=rank):
                code, error = self.signal(number, rank)
                self.assertEqual(code, INTERRUPTED, error)
                self.assert_one_error_line(error, "interrupted", "run the same command again")
                self.continue_job()

    def test_sigusr1_to_mpirun_ends_the_job_to_be_continued(self):
        code, error = self.signal(signal.SIGUSR1, None)
        self.assertEqual(code, INTERRUPTED, error)
        self.assert_one_error_line(error, "interrupted", "run the same command again")
        self.continue_job()

    def test_sigterm_and_sigint_to_mpirun_end_the_job_to_be_continued(self):
        # The exit code is mpirun's own: Open MPI returns 1 whatever its ranks say.
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                code, error = self.signal(number, None)
                self.assertNotEqual(code, DONE)
                self.assert_one_error_line(error, "interrupted", "run the same command again")
                self.continue_job()


class MistakeTest(RanksTest):
    LAYERS = 1

    def assert_untouched(self):
        self.assertFalse(self.out.exists())
        self.assertFalse(self.partial.exists())

    def test_processes_that_do_not_see_each_other_are_refused(self):
        for variable in ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
            with self.subTest(variable=variable):
                error = self.run_to_end(self.quantize(), USAGE, {variable: "4"})
                self.assert_one_error_line(error, f"{variable}=4", "4 processes")
                self.assert_untouched()

    def test_ranks_with_other_arguments_are_refused_by_name(self):
        error = self.run_to_end(
            self.two_programs(self.quantize("--bits", "4"), self.quantize("--bits", "3")), USAGE)
        self.assert_one_error_line(error, "rank 1", "layers or their settings")
        self.assert_untouched()

    def test_ranks_with_another_source_are_refused_by_name(self):
        other = self.root / "other"
        self.addCleanup(shutil.rmtree, other)
        write_model(other, shapes_of_layers(2))
        error = self.run_to_end(self.two_programs(self.quantize(), self.quantize(model=other)), USAGE)
        self.assert_one_error_line(error, "rank 1")
        self.assert_untouched()

    def test_a_model_missing_on_one_rank_ends_the_job_soon(self):
        missing = self.quantize(model=self.root / "missing")
        for name, programs in (("rank 1", (self.quantize(), missing)), ("", (missing, self.quantize()))):
            with self.subTest(missing=name or "rank 0"):
                start = time.monotonic()
                error = self.run_to_end(self.two_programs(*programs), IO)
                self.assertLess(time.monotonic() - start, 10)
                self.assert_one_error_line(error, name, "/missing")
                self.assert_untouched()

    def test_a_shard_cut_off_on_one_rank_is_told_with_rank_and_file(self):
        broken = self.root / "broken"
        self.addCleanup(shutil.rmtree, broken)
        shutil.copytree(self.model, broken)
        os.truncate(broken / "model.safetensors", self.model_bytes // 2)
        error = self.run_to_end(self.two_programs(self.quantize(), self.quantize(model=broken)), BAD_INPUT)
        self.assert_one_error_line(error, "rank 1", "/broken/model.safetensors")
        self.assert_untouched()
        error = self.run_to_end(self.mpirun(3, self.quantize(model=broken)), BAD_INPUT)
        self.assert_one_error_line(error, "/broken/model.safetensors")
        self.assert_untouched()

    def test_an_output_that_exists_is_not_touched(self):
        self.out.mkdir()
        error = self.run_to_end(self.mpirun(3, self.quantize()), USAGE)
        self.assert_one_error_line(error, "/out", "--overwrite")
        self.assertEqual(os.listdir(self.out), [])

    def test_the_second_job_on_an_output_is_refused_and_the_first_goes_on(self):
        first = self.start(self.mpirun(2, self.quantize("--threads", "1", "--backend", "reference")))
        self.wait_for_weights(first, 2)
        error = self.run_to_end(self.mpirun(2, self.quantize()), USAGE)
        self.assert_one_error_line(error, "another process is writing", "/out")
        _, error = first.communicate(timeout=DEADLINE)
        self.assertEqual(first.returncode, DONE, error)
        self.assert_complete()


    def test_an_unfinished_output_of_another_job_is_left_for_that_one(self):
        first = self.start(self.mpirun(2, self.quantize("--threads", "1", "--backend", "reference")))
        self.wait_for_weights(first, 2)
        kill(first.pid, signal.SIGUSR1)
        first.communicate(timeout=DEADLINE)
        error = self.run_to_end(self.mpirun(2, self.quantize("--bits", "3")), USAGE)
        self.assert_one_error_line(error, "another job", "--fresh")
        self.assertNotIn("same command", error)
        self.run_to_end(self.mpirun(2, self.quantize()))
        self.assert_complete()


class DiskTest(RanksTest):
    # In a mount namespace of its own, so that nothing is left mounted. $1: folder, $2...: the job, to $1/disk/out.
    TOO_SMALL = """
        disk="$1/disk"; shift
        mount -t tmpfs -o size=40m none "$disk" || exit 99
        "$@" > /dev/null; echo "small: $?"
        ls "$disk"
        mount -o remount,size=200m "$disk"
        "$@" > /dev/null; echo "large: $?"
        sha256sum < "$disk/out/model.safetensors"
    """
    # The disk is filled while the job runs.
    FILLED = """
        disk="$1/disk"; shift
        mount -t tmpfs -o size=80m none "$disk" || exit 99
        "$@" --backend reference > /dev/null & job=$!
        until find "$disk"/out.partial/.halfquad/journal-* -size +0 2> /dev/null | grep -q .; do
            kill -0 $job 2> /dev/null || { echo "nothing was kept"; exit; }
            sleep 0.01
        done
        head -c 100000000 /dev/zero > "$disk/filler" 2> /dev/null
        wait $job; echo "full: $?"
        test -e "$disk/out" && echo "it has the name"
        rm "$disk/filler"
        "$@" > /dev/null; echo "room: $?"
        sha256sum < "$disk/out/model.safetensors"
        cp "$disk/out/halfquad_report.json" "$disk.json"
    """
    READ_ONLY = """
        disk="$1/disk"; shift
        mount -t tmpfs -o ro none "$disk" || exit 99
        "$@" > /dev/null; echo "read-only: $?"
    """

    def on_a_disk_of_its_own(self, script: str) -> subprocess.CompletedProcess:
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            self.skipTest("mounting a small file system needs root and unshare")
        probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True, timeout=DEADLINE, check=False)
        if probe.returncode != 0:  # in a chroot, or a container without the right to mount
            self.skipTest("no private mount is possible here: " + probe.stderr.strip())
        disk = self.root / "disk"
        disk.mkdir(exist_ok=True)
        job = self.mpirun(3, self.quantize("--threads", "1", out=disk / "out"))
        command = ["unshare", "-m", "sh", "-c", script, "sh", self.root, *job]
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=DEADLINE, check=False)
        if ended.returncode == 99:
            self.skipTest("no private mount is possible here: " + ended.stderr.strip())
        return ended

    def test_a_disk_too_small_is_told_and_room_makes_it_work(self):
        ended = self.on_a_disk_of_its_own(self.TOO_SMALL)
        self.assertEqual(ended.stdout.split(), ["small:", str(IO), "large:", str(DONE), self.expected, "-"], ended.stderr)
        self.assert_one_error_line(ended.stderr, "/disk/out", "free", "make room")

    def test_a_disk_that_becomes_full_ends_the_job_to_be_continued(self):
        ended = self.on_a_disk_of_its_own(self.FILLED)
        self.assertEqual(ended.stdout.split(), ["full:", str(IO), "room:", str(DONE), self.expected, "-"], ended.stderr)
        self.assert_one_error_line(ended.stderr, "/disk/out", "run the same command again")
        resumed = json.loads((self.root / "disk.json").read_text())["resumed"]
        self.assertGreater(resumed["source_bytes"], 0)

    def test_a_read_only_disk_is_told(self):
        ended = self.on_a_disk_of_its_own(self.READ_ONLY)
        self.assertEqual(ended.stdout.split(), ["read-only:", str(IO)], ended.stderr)
        self.assert_one_error_line(ended.stderr, "/disk/out")


class MemoryTest(RanksTest):
    LAYERS = 10
    BUDGET = 64 << 20
    ALLOWED = BUDGET + (200 << 20)
    # Runs a rank and writes down its largest resident set in KiB.
    MEASURE = """
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
open(f"{sys.argv[1]}/peak-{os.getpid()}", "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""

    def check(self, *options):
        self.assertGreater(self.model_bytes, 4 * self.BUDGET)
        measure = [sys.executable, "-c", self.MEASURE, self.root]
        for old in self.root.glob("peak-*"):
            old.unlink()
        self.run_to_end(self.mpirun(4, measure + self.quantize("--threads", "2", "--memory", self.BUDGET, *options)))
        self.assert_complete()
        peaks = [int(path.read_text()) * 1024 for path in self.root.glob("peak-*")]
        self.assertEqual(len(peaks), 4)
        print(f"\n{' '.join(options)}: largest resident set of each rank in MiB:", *(peak >> 20 for peak in sorted(peaks)))
        self.assertLess(max(peaks), self.ALLOWED)
        for rank in report_of(self.out)["ranks"]:
            self.assertLessEqual(rank["peak_buffer_bytes"], self.BUDGET)

    def test_every_rank_stays_inside_its_budget(self):
        self.check("--assembly", "direct")

    def test_a_rank_that_writes_for_all_stays_inside_its_budget(self):
        self.check("--assembly", "gather")


def main():
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument("halfquad", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("mpiexec")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=41)
    _, more = parser.parse_known_args(namespace=OPTIONS)
    unittest.main(argv=[sys.argv[0], *more])


if __name__ == "__main__":
    main()
