"""`halfquad importance` over several processes: the same file however the work is divided, and one error for all.

Usage: test_importance.py HALFQUAD MPIEXEC [unittest arguments]
"""

import json
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

MODELS = Path(__file__).parent.parent / "golden" / "forward"
QUIET = ["--progress", "none", "--log-level", "off"]
DONE, USAGE, BAD_INPUT = 0, 2, 3
DEADLINE = 120  # seconds any one job may take
PROGRAM = MPIEXEC = ""


def header_of(path: Path) -> dict:
    with open(path, "rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))


class ImportanceTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.out = self.folder / "out.safetensors"

    def run_job(self, ranks: int, family: str, *options, code: int = DONE) -> str:
        """Returns what it said on standard error."""
        start = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
        command = [*start, PROGRAM, "importance", str(MODELS / family), str(self.out), *QUIET, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def test_any_ranks_and_threads_write_the_same_bytes(self):
        for family in ("gemma3_text", "qwen3_moe"):
            self.run_job(1, family, "--tokens", "200", "--threads", "1")
            wanted = self.out.read_bytes()
            for ranks, threads in ((1, 2), (2, 1), (3, 2)):
                with self.subTest(family=family, ranks=ranks, threads=threads):
                    self.run_job(ranks, family, "--tokens", "200", "--threads", str(threads), "--overwrite")
                    self.assertEqual(self.out.read_bytes(), wanted)
            self.out.unlink()

    def test_the_file_says_what_it_is(self):
        self.run_job(2, "qwen2", "--tokens", "100", "--length", "8", "--seed", "5")
        header = header_of(self.out)
        about = header.pop("__metadata__")
        self.assertEqual(about["command"], "halfquad importance --tokens 100 --length 8 --seed 5")
        self.assertEqual([about[key] for key in ("tokens", "sequences", "length", "seed")], ["100", "13", "8", "5"])
        self.assertEqual(len(about["model_digest"]), 16)
        config = json.loads((MODELS / "qwen2" / "config.json").read_text())
        self.assertEqual(header["model.layers.1.mlp.down_proj"]["shape"], [config["intermediate_size"]])
        self.assertEqual(header["model.layers.0.self_attn.q_proj"]["dtype"], "F32")
        self.assertEqual(len(header), 7 * config["num_hidden_layers"])
        self.assertEqual([path.name for path in self.folder.iterdir()], [self.out.name])

    def test_an_output_that_exists_is_kept(self):
        self.out.write_bytes(b"mine")
        error = self.run_job(2, "qwen2", code=USAGE)
        self.assertIn("pass --overwrite", error)
        self.assertEqual(error.count("halfquad: error:"), 1, error)
        self.assertEqual(self.out.read_bytes(), b"mine")

    def test_what_one_rank_cannot_do_ends_all(self):
        broken = self.folder / "broken"
        shutil.copytree(MODELS / "qwen2", broken)
        (broken / "config.json").write_text('{"model_type": "mamba"}')
        command = [MPIEXEC, "-n", "1", PROGRAM, "importance", str(MODELS / "qwen2"), str(self.out), *QUIET, ":",
                   "-n", "1", PROGRAM, "importance", str(broken), str(self.out), *QUIET]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, BAD_INPUT, done.stderr)
        self.assertEqual(done.stderr.count("halfquad: error:"), 1, done.stderr)
        self.assertIn('rank 1 on ', done.stderr)
        self.assertIn('model_type "mamba"', done.stderr)
        self.assertFalse(self.out.exists())

    def test_ranks_that_measure_something_else_are_refused(self):
        job = [PROGRAM, "importance", str(MODELS / "qwen2"), str(self.out), *QUIET]
        command = [MPIEXEC, "-n", "1", *job, "--seed", "1", ":", "-n", "1", *job, "--seed", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, USAGE, done.stderr)
        self.assertIn("ranks 0 and 1 do not measure the same", done.stderr)


if __name__ == "__main__":
    PROGRAM, MPIEXEC = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
