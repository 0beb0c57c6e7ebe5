"""One job over several hosts: the same bytes, and an end in bounded time when one dies or loses its cable.

Usage: test_hosts.py HALFQUAD MPIEXEC [unittest arguments]

Exit code 77: no hosts can be emulated here (hosts.py).
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import time
import unittest
from pathlib import Path

import hosts
import test_ranks
from test_ranks import BAD_INPUT, DEADLINE, DONE, OPTIONS, USAGE, digest, report_of

SKIPPED = 77
ENDS_AFTER_KILL = 15  # seconds
ENDS_AFTER_CUT = 20  # 7 of them until Open MPI notices


def rename_tensor(file: Path):
    """Changes the header and nothing else."""
    bytes_ = bytearray(file.read_bytes())
    start = bytes_.index(b"k_proj")
    bytes_[start:start + 1] = b"j"
    file.write_bytes(bytes_)


def cut_rows(file: Path):
    """Takes rows from the last tensor, and their bytes from the end: a sound file that is not the others'."""
    bytes_ = file.read_bytes()
    length = struct.unpack_from("<Q", bytes_)[0]
    header = json.loads(bytes_[8:8 + length])
    tensor = header[max(header, key=lambda name: header[name]["data_offsets"])]
    removed = 8 * 2 * tensor["shape"][1]
    tensor["shape"][0] -= 8
    tensor["data_offsets"][1] -= removed
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes_[8 + length:-removed])


class HostsTest(test_ranks.RanksTest):
    """Four hosts that see one directory, and each one of its own."""

    HOSTS = 4
    LAYERS = 1

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.private = cls.root / "private"
        cls.private.mkdir()

    def setUp(self):
        super().setUp()
        self.hosts = hosts.Hosts(self.HOSTS, self.root, self.private, OPTIONS.mpiexec)
        self.addCleanup(self.hosts.close)

    def over(self, names: list, command: list) -> list:
        return self.hosts.mpirun({name: 1 for name in names}, command)

    def copy_model(self, names: list) -> Path:
        """Gives these hosts a copy of their own; returns where they see it."""
        for name in names:
            shutil.copytree(self.model, self.hosts.disk(name) / "model")
        return self.private / "model"

    def assert_untouched(self):
        self.assertFalse(self.out.exists())
        self.assertFalse(self.partial.exists())


class JobTest(HostsTest):
    def test_a_job_over_hosts_with_one_file_system_writes_the_same_bytes(self):
        command = self.quantize("--threads", "1")
        self.run_to_end(self.hosts.mpirun({"h0": 2, "h1": 1, "h2": 1, "h3": 2}, command))
        self.assert_complete()
        self.assertEqual(len(report_of(self.out)["ranks"]), 6)

    def test_hosts_with_copies_of_the_model_write_the_same_bytes(self):
        model = self.copy_model(self.hosts.names)
        self.run_to_end(self.over(self.hosts.names, self.quantize(model=model)))
        self.assert_complete()

    def test_a_host_with_another_model_is_refused_by_name(self):
        model = self.copy_model(self.hosts.names)
        for change in (rename_tensor, cut_rows):
            with self.subTest(change=change.__name__):
                copy = self.hosts.disk("h2") / "model"
                shutil.rmtree(copy)
                shutil.copytree(self.model, copy)
                change(copy / "model.safetensors")
                error = self.run_to_end(self.over(self.hosts.names, self.quantize(model=model)), USAGE)
                self.assert_one_error_line(error, "rank 2", "h2", "differs from rank 0")
                self.assert_untouched()

    def test_a_host_whose_copy_is_cut_off_is_named(self):
        model = self.copy_model(self.hosts.names)
        file = self.hosts.disk("h3") / "model" / "model.safetensors"
        with open(file, "r+b") as shortened:
            shortened.truncate(self.model_bytes // 2)
        error = self.run_to_end(self.over(self.hosts.names, self.quantize(model=model)), BAD_INPUT)
        self.assert_one_error_line(error, "rank 3", "h3", "/model.safetensors")
        self.assert_untouched()


class LossHelper(HostsTest):
    """For hosts that are lost in the middle of a job of some seconds."""

    SLOW = ("--threads", "1", "--backend", "reference")  # makes the job last; the bytes are the same

    @classmethod
    def shapes(cls) -> dict:
        """Many small tensors, so that something is finished soon."""
        shapes = {"model.embed_tokens.weight": (4096, 1024)}
        for i in range(24):
            shapes[f"model.layers.{i}.self_attn.q_proj.weight"] = (1024, 1024)
            shapes[f"model.layers.{i}.self_attn.o_proj.weight"] = (1024, 1024)
        return shapes

    def journals(self) -> list:
        return list((self.partial / ".halfquad").glob("journal-*"))

    def wait_for_journals(self, process: subprocess.Popen):
        """Until a rank has written down work that it finished."""
        deadline = time.monotonic() + DEADLINE
        while not any(journal.stat().st_size > 0 for journal in self.journals()):
            self.assertIsNone(process.poll(), "the job ended before it could be hit")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def lose(self, what, command: list, seconds: float) -> float:
        """Does what() in the middle; returns the seconds until mpirun ended."""
        process = self.start(command)
        self.wait_for_journals(process)
        start = time.monotonic()
        what()
        _, error = process.communicate(timeout=DEADLINE)
        ended = time.monotonic() - start
        self.assertNotEqual(process.returncode, DONE, error)
        self.assertLess(ended, seconds, error)
        self.assert_none_left(seconds)
        self.assert_nothing_named_out()
        print(f"\n{self.id().rsplit('.', 1)[1]}: mpirun ended after {ended:.1f} s", end="", flush=True)
        return ended

    def assert_nothing_named_out(self):
        self.assertFalse(self.out.exists())

    def assert_continues(self, command: list):
        self.run_to_end(command)
        self.assert_complete()
        resumed = report_of(self.out)["resumed"]
        self.assertGreater(resumed["source_bytes"], 0)
        self.assertEqual(resumed["pieces_damaged"], 0)
        shutil.rmtree(self.out)


class LossTest(LossHelper):
    def test_the_hosts_left_continue_when_one_was_killed(self):
        for lost in ("h2", "h0"):  # rank 0's host too
            with self.subTest(lost=lost):
                job = self.over(self.hosts.names, self.quantize(*self.SLOW))
                self.lose(lambda lost=lost: self.hosts.kill(lost), job, ENDS_AFTER_KILL)
                left = [name for name in self.hosts.names if name != lost]
                self.assert_continues(self.over(left, self.quantize()))
                self.hosts.start(lost)

    def test_a_cut_cable_ends_the_job_and_it_continues_once_healed(self):
        job = self.over(self.hosts.names, self.quantize(*self.SLOW))
        self.lose(lambda: self.hosts.cut("h1"), job, ENDS_AFTER_CUT)
        self.hosts.heal("h1")
        self.assert_continues(self.over(self.hosts.names, self.quantize()))

    def test_a_host_without_power_continues_when_it_is_started_again(self):
        # Unlike a killed one's, its kernel says nothing any more.
        def power_off():
            self.hosts.cut("h3")
            self.hosts.kill("h3")

        self.lose(power_off, self.over(self.hosts.names, self.quantize(*self.SLOW)), ENDS_AFTER_CUT)
        self.hosts.start("h3")
        self.assert_continues(self.over(["h3", "h1"], self.quantize()))


def has_assembly() -> bool:
    helped = subprocess.run([OPTIONS.halfquad, "quantize", "--help"], capture_output=True, text=True, check=True)
    return "--assembly" in helped.stdout


class GatherTest(LossHelper):
    """Every host has its own disk: the output grows on that of rank 0."""

    def setUp(self):
        if not has_assembly():
            self.skipTest("quantize has no --assembly")
        super().setUp()
        self.out = self.private / "out"

    def journals(self) -> list:
        disks = [self.hosts.disk(name) for name in self.hosts.names]
        return [journal for disk in disks for journal in disk.glob("*.partial/.halfquad/journal-*")]

    def out_of(self, host: str) -> Path:
        return self.hosts.disk(host) / "out"

    def assert_nothing_named_out(self):
        for name in self.hosts.names:
            self.assertFalse(self.out_of(name).exists())

    def assert_complete(self):
        self.assertEqual(digest(self.out_of("h0")), self.expected)
        for name in self.hosts.names:
            left = {path.name for path in self.hosts.disk(name).iterdir()} - {"model"}
            self.assertEqual(left, {"out"} if name == "h0" else set(), name)

    def assert_continues(self, command: list):
        self.run_to_end(command)
        self.assert_complete()
        self.assertGreater(report_of(self.out_of("h0"))["resumed"]["source_bytes"], 0)
        shutil.rmtree(self.out_of("h0"))

    def test_hosts_without_a_common_file_system_gather(self):
        model = self.copy_model(self.hosts.names)
        for ranks_of_host in ({"h0": 1, "h1": 1, "h2": 1, "h3": 1}, {"h0": 2, "h3": 2, "h1": 1}):
            with self.subTest(ranks=ranks_of_host):
                self.run_to_end(self.hosts.mpirun(ranks_of_host, self.quantize(model=model)))
                self.assert_complete()
                shutil.rmtree(self.out_of("h0"))

    def test_direct_is_refused_where_the_output_is_not_common(self):
        error = self.run_to_end(self.over(self.hosts.names, self.quantize("--assembly", "direct")), USAGE)
        self.assert_one_error_line(error, "rank 1", "h1", "--assembly direct")
        self.assert_nothing_named_out()

    def test_shards_are_gathered(self):
        shards = self.root / "shards"
        self.addCleanup(shutil.rmtree, shards, ignore_errors=True)
        more = ("--max-shard-size", "20MB")
        self.run_to_end(self.quantize(*more, out=shards))
        self.run_to_end(self.over(self.hosts.names, self.quantize(*more)))
        self.assertGreater(len(list(shards.glob("*.safetensors"))), 1)
        for file in (*shards.glob("*.safetensors"), shards / "model.safetensors.index.json"):
            self.assertEqual((self.out_of("h0") / file.name).read_bytes(), file.read_bytes(), file.name)

    def test_a_host_killed_while_gathering_ends_the_job_to_be_continued(self):
        job = self.over(self.hosts.names, self.quantize(*self.SLOW))
        self.lose(lambda: self.hosts.kill("h2"), job, ENDS_AFTER_KILL)
        self.assert_continues(self.over(["h0", "h1", "h3"], self.quantize()))

    def test_the_killed_host_of_rank_0_continues_from_its_disk(self):
        job = self.over(self.hosts.names, self.quantize(*self.SLOW))
        self.lose(lambda: self.hosts.kill("h0"), job, ENDS_AFTER_KILL)
        self.hosts.start("h0")
        self.assert_continues(self.over(["h0", "h3"], self.quantize()))


def main():
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument("halfquad", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("mpiexec")
    _, more = parser.parse_known_args(namespace=OPTIONS)
    reason = hosts.why_not(OPTIONS.mpiexec)
    if reason:
        print(reason)
        sys.exit(SKIPPED)
    unittest.main(argv=[sys.argv[0], *more])


if __name__ == "__main__":
    main()
