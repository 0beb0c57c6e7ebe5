"""One job over several processes whose source holds NaN, or becomes unreadable to one of them.

Usage: test_sources.py HALFQUAD MPIEXEC [unittest arguments]
"""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import test_ranks
from test_ranks import DEADLINE, DONE, INTERRUPTED, IO, USAGE, kill, report_of, write_model


def put_nan(folder: Path, *places: tuple):
    """Makes elements of a checkpoint NaN: a tensor's name and the element's index, from the end if negative."""
    with open(folder / "model.safetensors", "r+b") as file:
        header_bytes = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(header_bytes))
        for name, index in places:
            file.seek(8 + header_bytes + header[name]["data_offsets"][index < 0] + 2 * index)
            file.write(b"\xc0\x7f")


def bytes_read(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    except OSError:
        return 0


class NonfiniteTest(test_ranks.RanksTest):
    OPTIONS_OF_ALL = ["--nonfinite", "keep-original"]
    # The first in its first tile, the second in its last.
    BROKEN = [("model.layers.0.self_attn.q_proj.weight", 5), ("model.layers.2.self_attn.q_proj.weight", -1)]

    @classmethod
    def write_model(cls) -> int:
        size = super().write_model()
        put_nan(cls.model, *cls.BROKEN)
        return size

    def test_any_ranks_keep_the_same_tensors(self):
        self.assertLessEqual(dict(self.BROKEN).keys(), report_of(self.reference)["tensors"].keys())
        for ranks in (2, 3, 8):
            with self.subTest(ranks=ranks):
                self.run_to_end(self.mpirun(ranks, self.quantize()))
                self.assert_complete()
                self.assertEqual(report_of(self.out)["tensors"], report_of(self.reference)["tensors"])
                self.assertEqual(sum(rank["bytes_read"] for rank in report_of(self.out)["ranks"]), self.model_bytes)
                shutil.rmtree(self.out)

    def test_only_some_ranks_told_to_keep_them_are_refused(self):
        told = self.quantize()
        other = ["zero" if word == "keep-original" else word for word in told]
        for programs in ((told, other), (other, told)):
            error = self.run_to_end(self.two_programs(*programs), USAGE)
            self.assert_one_error_line(error, "rank 1", "--nonfinite")

    def start_search(self) -> tuple:
        """A job of two ranks, each with a model of its own, that looks for NaN in holes for seconds."""
        models = [self.root / f"sparse-{rank}" for rank in range(2)]
        for model in models:
            self.addCleanup(shutil.rmtree, model, ignore_errors=True)
            shutil.rmtree(model, ignore_errors=True)
            shapes = {f"model.layers.{i}.mlp.up_proj.weight": (1 << 16, 1 << 16) for i in range(4)}
            write_model(model, shapes, sparse=True)
        process = self.start(self.two_programs(*(self.quantize("--threads", "1", model=model) for model in models)))
        deadline = time.monotonic() + DEADLINE
        while len(self.processes()) < 2 or min(map(bytes_read, self.processes())) < 100 << 20:
            self.assertIsNone(process.poll(), "the job ended before it searched")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        self.assertFalse(self.partial.exists())
        return process, models

    def end_search(self, process: subprocess.Popen) -> str:
        start = time.monotonic()
        _, error = process.communicate(timeout=DEADLINE)
        self.assertLess(time.monotonic() - start, 5)
        self.assert_none_left()
        self.assertFalse(self.out.exists() or self.partial.exists())
        return error

    def test_a_file_cut_off_on_one_rank_during_the_search_ends_the_job(self):
        for rank in (0, 1):
            with self.subTest(rank=rank):
                process, models = self.start_search()
                os.truncate(models[rank] / "model.safetensors", 1 << 20)
                error = self.end_search(process)
                self.assertEqual(process.returncode, IO, error)
                self.assert_one_error_line(error, f'rank {rank} on "', 'tensor "model.',
                                           f"/sparse-{rank}/model.safetensors", "offset")

    def test_a_rank_signalled_or_killed_during_the_search_ends_the_job(self):
        for rank, number in ((0, signal.SIGTERM), (1, signal.SIGTERM), (0, signal.SIGKILL), (1, signal.SIGKILL)):
            with self.subTest(rank=rank, signal=number):
                process, _ = self.start_search()
                kill(self.processes()[rank], number)
                error = self.end_search(process)
                if number == signal.SIGTERM:
                    self.assertEqual(process.returncode, INTERRUPTED, error)
                    self.assert_one_error_line(error, "interrupted")
                self.assertNotEqual(process.returncode, DONE)


class SourceTest(test_ranks.RanksTest):
    def test_a_shard_cut_off_on_one_rank_in_the_middle_ends_the_job_to_be_continued(self):
        copy = self.root / "copy"
        self.addCleanup(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(self.model, copy)
        slow = ["--threads", "1", "--backend", "reference"]
        process = self.start(self.two_programs(self.quantize(*slow), self.quantize(*slow, model=copy)))
        self.wait_for_weights(process, 2)
        while not any(path.stat().st_size > 0 for path in self.partial.glob(".halfquad/journal-*")):
            self.assertIsNone(process.poll(), "the job ended before anything was finished")
            time.sleep(0.01)
        os.truncate(copy / "model.safetensors", 1 << 20)
        _, error = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, IO, error)
        self.assert_one_error_line(error, 'rank 1 on "', 'tensor "model.', "/copy/model.safetensors", "offset",
                                   "run the same command again")
        self.assertFalse(self.out.exists())

        shutil.rmtree(copy)
        shutil.copytree(self.model, copy)
        self.run_to_end(self.two_programs(self.quantize(), self.quantize(model=copy)))
        self.assert_complete()
        self.assertGreater(report_of(self.out)["resumed"]["source_bytes"], 0)


if __name__ == "__main__":
    test_ranks.main()
