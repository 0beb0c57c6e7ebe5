"""`halfquad importance`, and what quantize measures by itself, over several processes: the same bytes however the work is
divided, and one error for all.

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
TOKENIZERS = MODELS.parent / "tokenizers"
QUIET = ["--progress", "none", "--log-level", "off"]
DONE, USAGE, BAD_INPUT = 0, 2, 3
DEADLINE = 120  # seconds any one job may take
PROGRAM = MPIEXEC = ""


def header_of(path: Path) -> dict:
    with open(path, "rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))


def vectors_of(path: Path) -> bytes:
    """All but the header."""
    data = path.read_bytes()
    return data[8 + struct.unpack("<Q", data[:8])[0]:]


class ImportanceTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.out = self.folder / "out.safetensors"

    def run_job(self, ranks: int, family, *options, code: int = DONE) -> str:
        """Returns what it said on standard error. `family`: one of MODELS, or the path of another."""
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

    def model_with_tokenizer(self) -> Path:
        model = self.folder / "model"
        shutil.copytree(MODELS / "qwen2", model)
        shutil.copy(TOKENIZERS / "tiny.json", model / "tokenizer.json")
        return model

    def test_text_is_its_tokens(self):
        model, golden = self.model_with_tokenizer(), json.loads((TOKENIZERS / "ids.json").read_text())
        text, numbers = self.folder / "text.txt", self.folder / "ids.txt"
        text.write_text(golden["texts"][-1], newline="")
        ids, start = golden["ids"]["tiny"][-1], 0
        lines = [[start, *ids[i:i + 31]] for i in (0, 31, 62)] + [[start, *ids[93:96]]]  # 100 tokens in sequences of 32
        numbers.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
        self.run_job(1, model, "--tokens-file", str(numbers))
        wanted = vectors_of(self.out)
        self.run_job(1, model, "--text", str(text), "--tokens", "100", "--length", "32", "--overwrite")
        alone = self.out.read_bytes()
        self.assertEqual(vectors_of(self.out), wanted)
        self.run_job(2, model, "--text", str(text), "--tokens", "100", "--length", "32", "--threads", "1", "--overwrite")
        self.assertEqual(self.out.read_bytes(), alone)
        about = header_of(self.out)["__metadata__"]
        self.assertEqual(about["command"], "halfquad importance --text --tokens 100 --length 32")
        self.assertEqual([about[key] for key in ("tokens", "sequences", "length")], ["100", "4", "32"])
        self.assertEqual([len(about[key]) for key in ("tokens_digest", "tokenizer_digest")], [16, 16])
        self.assertNotIn("seed", about)

    def test_ranks_with_another_text_or_tokenizer_are_refused(self):
        models = [self.model_with_tokenizer(), self.folder / "other"]
        shutil.copytree(models[0], models[1])
        (models[1] / "tokenizer.json").write_text((models[1] / "tokenizer.json").read_text() + "\n")
        texts = [self.folder / "text.txt", self.folder / "other.txt"]
        for text in texts:
            text.write_text("what is " * 100 + text.name)
        texts[1].write_text("that is " * 100)
        for job, other in (((models[0], texts[0]), (models[0], texts[1])), ((models[0], texts[0]), (models[1], texts[0]))):
            with self.subTest(other=other):
                parts = [["-n", "1", PROGRAM, "importance", str(model), str(self.out), *QUIET, "--text", str(text),
                          "--length", "64"] for model, text in (job, other)]
                done = subprocess.run([MPIEXEC, *parts[0], ":", *parts[1]], capture_output=True, text=True,
                                      timeout=DEADLINE, check=False)
                self.assertEqual(done.returncode, USAGE, done.stderr)
                self.assertIn("ranks 0 and 1 do not measure the same", done.stderr)

    def quantize(self, *starts, code: int = DONE) -> str:
        """A job whose ranks are started with these (launcher's options, options of quantize); what it said of errors."""
        parts = [[*start, PROGRAM, "quantize", str(MODELS / "qwen3_moe"), str(self.folder / "out"), "--group-size", "16",
                  *QUIET, *options] for start, options in starts]
        command = sum(([":", *part] for part in parts[1:]), parts[0])
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def quantized(self) -> bytes:
        weights = (self.folder / "out" / "model.safetensors").read_bytes()
        shutil.rmtree(self.folder / "out")
        return weights

    def test_quantize_measures_the_same_with_any_ranks_and_threads(self):
        self.run_job(1, "qwen3_moe", "--tokens", "256")
        self.quantize(([], ["--importance", str(self.out)]))
        wanted = self.quantized()
        self.quantize(([], ["--importance", "weights"]))
        self.assertNotEqual(self.quantized(), wanted)
        for ranks, threads in ((1, 1), (1, 2), (2, 1), (3, 2)):
            with self.subTest(ranks=ranks, threads=threads):
                self.quantize(([MPIEXEC, "-n", str(ranks)], ["--threads", str(threads)]))
                self.assertEqual(self.quantized(), wanted)

    def test_ranks_that_would_quantize_by_something_else_are_refused(self):
        one = [MPIEXEC, "-n", "1"]
        for others in ([], ["--importance", "weights"], ["--importance", "none"], ["--solver", "hqq"]):
            for first, second in ((["--importance", "auto"], others), (others, ["--importance", "random"])):
                with self.subTest(first=first, second=second):
                    if not others:  # the same said in other words
                        self.quantize((one, first), (["-n", "1"], second))
                        self.quantized()
                        continue
                    error = self.quantize((one, first), (["-n", "1"], second), code=USAGE)
                    self.assertEqual(error.count("halfquad: error:"), 1, error)
                    self.assertIn("importance", error)
                    self.assertEqual(list(self.folder.iterdir()), [])

    def test_an_output_of_quantize_that_exists_is_kept(self):
        (self.folder / "out").mkdir()
        error = self.quantize(([MPIEXEC, "-n", "2"], []), code=USAGE)
        self.assertEqual(error.count("halfquad: error:"), 1, error)
        self.assertIn("exists; choose another OUT or pass --overwrite", error)

    def test_a_model_without_tokenizer_has_no_text(self):
        text = self.folder / "text.txt"
        text.write_text("what")
        error = self.run_job(1, "qwen2", "--text", str(text), code=BAD_INPUT)
        self.assertIn("tokenizer.json\" is missing", error)
        self.run_job(1, "qwen2", "--text", str(text), "--seed", "1", code=USAGE)
        self.run_job(1, "qwen2", "--text", str(text), "--tokens-file", str(text), code=USAGE)

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
