"""Every format of output over several processes: the same bytes however the job is divided and whatever dies, and what
comes out is what `halfquad verify` finds right; every expert of every kind of source is there.

Usage: test_formats.py HALFQUAD MPIEXEC [--kills N] [unittest arguments]

--kills: how many jobs are broken off for each format (default 3).
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

OPTIONS = argparse.Namespace()
QUIET = ["--progress", "none", "--log-level", "off"]
DONE, USAGE = 0, 2
DEADLINE = 120  # seconds any one job may take
GIVEN = "given.safetensors"  # importance of the columns of every layer, in the folder of the test
FORMATS = {  # with a group size that all have; what follows a colon tells two of a kind apart
    "hqq": [],
    "mlx": ["--bits", "3"],
    "mlx:hqq": ["--bits", "3", "--solver", "hqq"],
    "hqq:hqq": ["--solver", "hqq"],
    "compressed-tensors": [],
    "torchao": [],
    "awq": [],
    "awq:file": ["--importance", GIVEN],
    "gptq": ["--bits", "8"],
    "gguf": [],
    "gguf:Q4_K_M": ["--mixture", "Q4_K_M"],
    "compressed-tensors:nvfp4": ["--type", "nvfp4"],
    "gguf:mxfp4": ["--type", "mxfp4"],
    "gguf:nvfp4": ["--type", "nvfp4"],
    "hdf5": ["--bits", "3"],
    "compressed-tensors:budget": ["--target-bpw", "3.8"],  # two widths mixed
    "hdf5:tables": ["--type", "learned3", "--group-size", "32",  # a projection each of the others
                    *(word for place, kind in (("q_proj", "nf4"), ("k_proj", "fp4-e2m1"), ("v_proj", "fp3-e2m0"), ("up_proj", "fp3-e1m1"),
                                               ("down_proj", "learned4")) for word in ("--rule", f"{place}=type:{kind}"))],
    "compressed-tensors:mxfp4": ["--type", "mxfp4"],
}


def files_of(output: Path) -> dict:
    """Digest of every file but the report, which tells times."""
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(output.rglob("*")) if path.is_file() and path.name != "halfquad_report.json"}


def tensors_of(folder: Path) -> dict:
    """Dtype and shape of each tensor of safetensors files."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        found.update({name: (entry["dtype"], entry["shape"]) for name, entry in header.items() if name != "__metadata__"})
    return found


class Jobs(unittest.TestCase):
    PRESET = "tiny"

    @classmethod
    def setUpClass(cls):
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30
        cls.root = Path(tempfile.mkdtemp(prefix="halfquad-formats-", dir=memory if roomy else None))
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.model = cls.root / "model"
        cls.run_to_end([OPTIONS.halfquad, "synth", cls.model, "--preset", cls.PRESET, "--progress", "none"])
        cls.write_importance(cls.root / GIVEN)

    @classmethod
    def write_importance(cls, path: Path):
        """A vector for each matrix of the model: its values go up and down along the columns."""
        header, data = {}, b""
        for name, (_, shape) in sorted(tensors_of(cls.model).items()):
            if len(shape) != 2:
                continue
            values = struct.pack(f"<{shape[1]}f", *(1 + column * len(name) % 89 for column in range(shape[1])))
            header[name] = {"dtype": "F32", "shape": [shape[1]], "data_offsets": [len(data), len(data) + len(values)]}
            data += values
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    @staticmethod
    def run_to_end(command: list, code: int = DONE) -> str:
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=DEADLINE, check=False)
        if ended.returncode != code:
            raise AssertionError(f"{' '.join(map(str, command))}\nended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended.stdout + ended.stderr

    def quantize(self, form: str, out: Path, *more, ranks: int = 0, model=None) -> list:
        launch = [OPTIONS.mpiexec, "-n", ranks] if ranks else []
        size = [] if "--type" in FORMATS[form] else ["--group-size", "32"]  # which most types say
        options = [self.root / option if option == GIVEN else option for option in FORMATS[form]]
        return [*launch, OPTIONS.halfquad, "quantize", model or self.model, out, "--format", form.partition(":")[0],
                *size, *options, *QUIET, *more]

    def clear(self, out: Path):
        for path in (out, out.with_name(out.name + ".partial")):
            shutil.rmtree(path, ignore_errors=True)


class RanksTest(Jobs):
    def test_any_ranks_and_assembly_write_the_same_bytes(self):
        for form in FORMATS:
            expected = None
            for ranks, threads, assembly in ((0, 1, "auto"), (2, 1, "direct"), (3, 2, "gather"), (4, 1, "auto")):
                with self.subTest(format=form, ranks=ranks, assembly=assembly):
                    out = self.root / f"{form}-{ranks}"
                    self.run_to_end(self.quantize(form, out, "--threads", threads, "--assembly", assembly, ranks=ranks))
                    found = files_of(out)
                    expected = expected or found
                    self.assertEqual(found, expected)
                    self.clear(out)

    def test_what_was_written_is_verified_and_damage_is_found(self):
        for form in FORMATS:
            with self.subTest(format=form):
                out = self.root / f"{form}-verified"
                self.run_to_end(self.quantize(form, out))
                source = [] if form.startswith("gguf") else ["--source", self.model]
                text = self.run_to_end([OPTIONS.halfquad, "verify", out, *source, "--progress", "none"])
                self.assertRegex(text, "[1-9][0-9]* checksums compared")
                weights = max((path for path in out.iterdir() if path.suffix in (".safetensors", ".h5", ".gguf")),
                              key=lambda path: path.stat().st_size)
                with open(weights, "r+b") as file:  # well inside the data of any of these files
                    file.seek(weights.stat().st_size // 2)
                    byte = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte[0] ^ 1]))
                self.run_to_end([OPTIONS.halfquad, "verify", out, "--progress", "none"], code=6)
                self.clear(out)

    def test_a_group_size_that_does_not_fit_keeps_the_layer_or_takes_a_smaller_one(self):
        out = self.root / "fallback"
        for form in ("mlx", "gguf"):
            for fallback in ([], ["--group-fallback"]):
                self.run_to_end(self.quantize(form, out, "--rule", "down_proj=group-size:4096", *fallback))
                report = json.loads((out / "halfquad_report.json").read_text())
                kept = [entry["name"] for entry in report["kept"] if "down_proj" in entry["name"]]
                sizes = {entry["group_size"] for entry in report["layers"] if "down_proj" in entry["module"]}
                self.assertEqual(not kept, bool(fallback), kept)
                self.assertTrue(not fallback or max(sizes) < 4096, sizes)
                self.clear(out)


    def test_groups_of_several_sizes_are_refused_for_awq(self):
        said = self.run_to_end(self.quantize("awq", self.root / "mixed", "--rule", "down_proj=group-size:64"), code=USAGE)
        self.assertRegex(said, "one group size for the whole model: .*down_proj.* has 64, others 32; give all the same")
        self.assertFalse((self.root / "mixed.partial").exists())

    def test_a_gguf_source_gives_the_same_bytes_to_any_ranks(self):
        source = self.root / "source.gguf"
        # Most of it BF16, a layer and the embedding Q8_0, another MXFP4.
        rules = [".*=keep:on", r"layers\.0\.mlp\.down_proj|embed_tokens=bits:8", r"layers\.1\.mlp\.up_proj=type:mxfp4"]
        self.run_to_end([OPTIONS.halfquad, "quantize", self.model, source, "--group-size", "32", *QUIET,
                         *(word for rule in rules for word in ("--rule", rule))])
        expected = None
        for ranks, assembly in ((0, "auto"), (2, "direct"), (3, "gather")):
            with self.subTest(ranks=ranks, assembly=assembly):
                out = self.root / f"from-gguf-{ranks}"
                self.run_to_end(self.quantize("gguf", out, "--max-shard-size", "1MB", "--assembly", assembly, ranks=ranks, model=source))
                found = files_of(out)
                self.assertGreater(len(found), 1)
                expected = expected or found
                self.assertEqual(found, expected)
                self.run_to_end([OPTIONS.halfquad, "verify", out, "--progress", "none"])
                self.clear(out)

    def test_a_file_name_makes_one_file(self):
        for name, form in (("model.gguf", "gguf"), ("model.h5", "hdf5"), ("model.safetensors", "hqq")):
            if form not in FORMATS:
                continue
            out, folder = self.root / name, self.root / "folder"
            command = [OPTIONS.halfquad, "quantize", self.model, out, "--group-size", "32", *QUIET]
            self.run_to_end([OPTIONS.mpiexec, "-n", 2, *command])
            self.run_to_end([OPTIONS.halfquad, "quantize", self.model, folder, "--format", form, "--group-size", "32", *QUIET])
            self.assertEqual(out.read_bytes(), (folder / name).read_bytes())
            self.assertFalse(out.with_name(name + ".partial").exists())
            self.run_to_end([OPTIONS.halfquad, "verify", out, "--progress", "none"])
            self.run_to_end(command, code=USAGE)
            self.run_to_end([*command, "--overwrite"])
            out.unlink()
            self.clear(folder)
        self.run_to_end([OPTIONS.halfquad, "quantize", self.model, self.root / "x.h5", "--format", "gguf", *QUIET], code=USAGE)


class KillTest(Jobs):
    def test_a_job_killed_at_any_moment_is_finished_by_other_ranks(self):
        rng = random.Random(3)
        broken_off = continued = 0
        for form in FORMATS:
            with self.subTest(format=form):
                slow = ["--threads", "1", "--iters", "300"]
                reference = self.root / f"{form}-whole"
                start = time.monotonic()
                self.run_to_end(self.quantize(form, reference, *slow, ranks=2))
                whole = time.monotonic() - start
                expected = files_of(reference)
                self.clear(reference)
                out = self.root / f"{form}-killed"
                for _ in range(OPTIONS.kills):
                    process = subprocess.Popen([*map(str, self.quantize(form, out, *slow, ranks=2))],
                                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
                    time.sleep(rng.uniform(whole / 3, whole))
                    subprocess.run(["pkill", "-9", "-f", f"quantize {self.model} {out} "], check=False)
                    process.wait(timeout=DEADLINE)
                    if not out.exists():
                        broken_off += 1
                        self.run_to_end(self.quantize(form, out, *slow, ranks=3))
                        report = json.loads((out / "halfquad_report.json").read_text())
                        continued += report["resumed"]["source_bytes"] > 0
                    self.assertEqual(files_of(out), expected)
                    self.clear(out)
        print(f"\n{broken_off} jobs broken off, {continued} of them with work to continue from")
        self.assertGreater(broken_off, 0)


class SourceTest(Jobs):
    """Experts of every kind of source: all quantized, none lost."""

    def expect_experts(self, preset: str, modules: int):
        model = self.root / preset
        if not model.exists():
            self.run_to_end([OPTIONS.halfquad, "synth", model, "--preset", preset, "--progress", "none"])
        for form, suffix in (("hqq", ".W_q"), ("compressed-tensors", ".weight_packed")):
            with self.subTest(preset=preset, format=form):
                out = self.root / f"{preset}-{form}"
                self.run_to_end(self.quantize(form, out, "--bits", "4", ranks=2, model=model))
                found = [name for name in tensors_of(out) if re.search(r"\.experts\.\d+\.", name) and name.endswith(suffix)]
                print(f"{preset} to {form}: {len(found)} expert layers")
                self.assertEqual(len(found), modules)
                self.clear(out)

    def experts_of(self, preset: str) -> tuple:
        """Routed experts, and layers that have them, by config.json."""
        model = self.root / preset
        self.run_to_end([OPTIONS.halfquad, "synth", model, "--preset", preset, "--progress", "none"])
        config = json.loads((model / "config.json").read_text())
        experts = config.get("n_routed_experts") or config.get("num_local_experts") or config.get("num_experts")
        layers = config["num_hidden_layers"] - config.get("first_k_dense_replace", 0) + config.get("num_nextn_predict_layers", 0)
        return experts, layers

    def expect_stacked(self, preset: str, experts: int, layers: int):
        """A GGUF file has all experts of a layer in one tensor."""
        out, model = self.root / f"{preset}-gguf", self.root / preset
        self.run_to_end(self.quantize("gguf", out, ranks=2, model=model))
        found = json.loads(self.run_to_end([OPTIONS.halfquad, "inspect", out, "--json"]))["layers"]
        stacked = [layer for layer in found if layer["module"].endswith("_exps")]
        source = tensors_of(model)
        rows = {kind: next(shape[0] for name, (_, shape) in source.items() if re.search(rf"experts\.0\.{kind}_proj\.weight$", name))
                for kind in ("gate", "up", "down")}
        print(f"{preset} to gguf: {len(stacked)} tensors of {experts} experts")
        self.assertEqual(len(stacked), 3 * layers)
        for layer in stacked:
            kind = re.search(r"ffn_(\w+)_exps", layer["module"]).group(1)
            self.assertEqual(layer["shape"][0], experts * rows[kind], layer)
        # What is not quantized is said to be kept, and why.
        kept = json.loads((out / "halfquad_report.json").read_text())["kept"]
        self.assertEqual(len({entry["name"] for entry in kept}), len(kept))
        self.clear(out)
        return kept

    def test_fp8_of_deepseek(self):
        experts, layers = self.experts_of("tiny-deepseek-v3")
        self.expect_experts("tiny-deepseek-v3", 3 * experts * layers)
        kept = self.expect_stacked("tiny-deepseek-v3", experts, layers - 1)  # without the block for several tokens
        reasons = {entry["name"]: entry["reason"] for entry in kept}
        self.assertIn("divided", reasons["model.layers.0.self_attn.kv_b_proj.weight"])
        self.assertTrue(any("not in a GGUF file" in entry["reason"] for entry in kept))

    def test_mxfp4_of_gpt_oss(self):
        experts, layers = self.experts_of("tiny-gpt-oss")
        self.expect_experts("tiny-gpt-oss", 3 * experts * layers)

    def test_qwen3_moe(self):
        experts, layers = self.experts_of("tiny-qwen3-moe")
        self.expect_experts("tiny-qwen3-moe", 3 * experts * layers)
        self.expect_stacked("tiny-qwen3-moe", experts, layers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("halfquad")
    parser.add_argument("mpiexec")
    parser.add_argument("--kills", type=int, default=3)
    known, rest = parser.parse_known_args()
    OPTIONS.halfquad = os.path.realpath(known.halfquad)
    OPTIONS.mpiexec, OPTIONS.kills = known.mpiexec, known.kills
    version = subprocess.run([OPTIONS.halfquad, "--version"], capture_output=True, text=True, check=True).stdout
    if not re.search(r"^HDF5 +yes", version, re.MULTILINE):
        for form in [form for form in FORMATS if form.startswith("hdf5")]:
            del FORMATS[form]
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
