"""Outputs turned into other formats and back: exact where the format holds the same grids, the same bytes however many
ranks do it and whatever dies; names of a source for GGUF files; what `verify` finds; histograms of codes.

Usage: test_convert.py HALFQUAD MPIEXEC [unittest arguments]
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HALFQUAD = MPIEXEC = ""
WITH_HDF5 = True
QUIET = ["--progress", "none", "--log-level", "off"]
DONE, USAGE, BAD_INPUT, DIFFERS = 0, 2, 3, 6
DEADLINE = 120  # seconds any one job may take


def tensors_of(folder: Path) -> dict:
    """Dtype, shape and bytes of each tensor of safetensors files."""
    found = {}
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            found[name] = entry["dtype"], entry["shape"], data[8 + length + begin:8 + length + end]
    return found


class Conversions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30
        cls.root = Path(tempfile.mkdtemp(prefix="halfquad-convert-", dir=memory if roomy else None))
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.model = cls.root / "model"
        cls.run_to_end("synth", cls.model, "--preset", "tiny", "--progress", "none")
        (cls.model / "tokenizer_config.json").write_text('{"a": 1}\n')

    @staticmethod
    def run_to_end(*command, code: int = DONE, ranks: int = 0) -> str:
        launch = [MPIEXEC, "-n", ranks] if ranks else []
        ended = subprocess.run([*map(str, [*launch, HALFQUAD, *command])], capture_output=True, text=True, timeout=DEADLINE, check=False)
        if ended.returncode != code:
            raise AssertionError(f"{' '.join(map(str, command))}\nended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended.stdout + ended.stderr

    def made(self, name: str, form: str, *more, model=None) -> Path:
        """The model in a format, quantized once."""
        out = self.root / name
        if not out.exists():
            group = [] if {"--group-size", "nvfp4", "mxfp4"} & set(more) else ["--group-size", "32"]  # which these types say
            self.run_to_end("quantize", model or self.model, out, "--format", form, *group, *more, *QUIET)
        return out

    def convert(self, source: Path, name: str, form: str, *more, ranks: int = 0) -> Path:
        out = self.root / name
        self.run_to_end("convert", source, out, "--format", form, *more, *QUIET, ranks=ranks)
        return out

    def conversion(self, out: Path) -> dict:
        return json.loads((out / "halfquad_report.json").read_text())["converted"]

    def expect_exact(self, out: Path):
        found = self.conversion(out)
        self.assertEqual(found["changed_layers"], [])
        self.assertGreater(found["exact_layers"], 0)

    def expect_same_tensors(self, one: Path, other: Path):
        found, wanted = tensors_of(one), tensors_of(other)
        self.assertEqual(sorted(found), sorted(wanted))
        self.assertEqual([name for name in wanted if found[name] != wanted[name]], [])
        self.assertGreater(len(wanted), 20)


class PairsTest(Conversions):
    # What is quantized how, and the formats it goes through and back, every step exact.
    ROUND_TRIPS = [
        ("hqq", [], ["hqq", "hdf5"]),
        ("hqq", ["--bits", "3"], ["hdf5"]),
        ("hqq", ["--bits", "8", "--scale-dtype", "bf16"], ["hdf5"]),
        ("hqq", ["--axis", "0"], ["hqq"]),
        ("hdf5", ["--bits", "5"], ["hqq"]),
        ("hdf5", ["--type", "learned4"], ["hdf5"]),
        ("hdf5", ["--type", "fp3-e2m0", "--scale-dtype", "bf16"], ["hdf5"]),
        ("mlx", [], ["mlx", "gguf"]),
        ("mlx", ["--bits", "5"], ["gguf"]),
        ("mlx", ["--bits", "6", "--scale-dtype", "bf16"], ["mlx"]),
        ("awq", [], ["gptq", "compressed-tensors", "hqq", "hdf5"]),
        ("gptq", [], ["awq", "compressed-tensors", "hqq"]),
        ("gptq", ["--bits", "8"], ["compressed-tensors", "hqq"]),
        ("gptq", ["--bits", "2"], ["hqq", "hdf5"]),
        ("compressed-tensors", [], ["awq", "gptq", "hqq"]),
        ("compressed-tensors", ["--bits", "8"], ["gptq"]),
        ("compressed-tensors", ["--symmetric"], ["compressed-tensors", "gguf"]),
        ("compressed-tensors", ["--bits", "8", "--symmetric"], ["gguf"]),
        ("compressed-tensors", ["--type", "nvfp4"], ["compressed-tensors", "gguf"]),
        ("compressed-tensors", ["--type", "mxfp4"], ["compressed-tensors", "gguf"]),
        ("hdf5", ["--type", "learned3"], ["hdf5"]),
        ("hdf5", ["--type", "nf4"], ["hdf5"]),
    ]

    def test_round_trips_give_every_byte_back(self):
        for number, (form, options, others) in enumerate(self.ROUND_TRIPS):
            if not WITH_HDF5 and form == "hdf5":
                continue
            first = self.made(f"{number}-{form}", form, *options)
            for other in others:
                if not WITH_HDF5 and other == "hdf5":
                    continue
                with self.subTest(quantized=form, options=options, through=other):
                    there = self.convert(first, f"{number}-to-{other}", other)
                    self.expect_exact(there)
                    self.run_to_end("verify", there, "--source", first, *QUIET)
                    names = ["--source", first] if other == "gguf" else []
                    if other == "gguf":  # its names are those of the plain model
                        self.run_to_end("dequantize", first, self.root / f"{number}-plain", *QUIET)
                        names = ["--source", self.root / f"{number}-plain"]
                    back = self.convert(there, f"{number}-{other}-back", form, *names)
                    self.expect_exact(back)
                    if form == "hdf5":  # not to be read here
                        back, first_plain = (self.convert(path, f"{path.name}-h", "hqq") for path in (back, first))
                        self.expect_same_tensors(back, first_plain)
                        continue
                    self.expect_same_tensors(back, first)
                    self.assertEqual((back / "tokenizer_config.json").read_text(), '{"a": 1}\n')
                    self.assertEqual(json.loads((back / "config.json").read_text()), json.loads((first / "config.json").read_text()))

    def test_experts_keep_scales_of_their_own(self):
        model = self.root / "experts"
        self.run_to_end("synth", model, "--preset", "tiny-qwen3-moe", "--progress", "none")
        path = model / "model.safetensors"
        data = bytearray(path.read_bytes())
        length = struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:8 + length]).items():
            if ".mlp.experts.1." not in name:
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            for at in range(begin + 1, end, 2):  # the upper byte of BF16: four times the weight
                data[at] += 1 if data[at] & 0x7F else 0
        path.write_bytes(data)
        first = self.made("experts-nvfp4", "compressed-tensors", "--type", "nvfp4", model=model)
        scales = {data for name, (_, _, data) in tensors_of(first).items() if ".layers.0.mlp.experts." in name and name.endswith("down_proj.weight_global_scale")}
        self.assertGreater(len(scales), 1)
        there = self.convert(first, "experts-gguf", "gguf")
        self.expect_exact(there)
        self.run_to_end("verify", there, "--source", first, *QUIET)
        back = self.convert(there, "experts-back", "compressed-tensors", "--source", model)
        self.expect_exact(back)
        self.expect_same_tensors(back, first)

    def test_llama_cpp_applies_no_scale_of_a_tensor_to_some_models(self):
        model = self.root / "unscaled"
        self.run_to_end("synth", model, "--preset", "tiny-deepseek-v3", "--progress", "none")
        first = self.made("unscaled-nvfp4", "compressed-tensors", "--type", "nvfp4", model=model)
        there = self.convert(first, "unscaled-gguf", "gguf")
        self.assertEqual({layer["why"] for layer in self.conversion(there)["changed_layers"]},
                         {"no scale for the tensor, which llama.cpp does not apply here"})
        self.assertNotIn(b".scale", (there / "model.gguf").read_bytes()[:1 << 16])
        out = self.root / "unscaled-made"
        text = self.run_to_end("quantize", model, out, "--format", "gguf", "--type", "nvfp4", "--progress", "none")
        self.assertIn("does not apply NVFP4's scale of a tensor to ffn_down", text)
        for made, source in ((there, first), (out, model)):
            self.run_to_end("verify", made, "--source", source, *QUIET)

    def test_files_inside_one_hdf5_file_come_along(self):
        if not WITH_HDF5:
            self.skipTest("without HDF5")
        model = self.root / "model-with-files"
        shutil.copytree(self.model, model)
        (model / "chat_template.jinja").write_text("{{ x }}" * 200_000)
        self.run_to_end("quantize", model, self.root / "alone.h5", "--group-size", "32", *QUIET)
        self.run_to_end("convert", self.root / "alone.h5", self.root / "again.h5", *QUIET)
        self.run_to_end("dequantize", self.root / "again.h5", self.root / "alone-plain", *QUIET)
        for out in (self.convert(self.root / "again.h5", "alone-hqq", "hqq"), self.root / "alone-plain"):
            for name in ("tokenizer_config.json", "chat_template.jinja"):
                with self.subTest(out=out.name, file=name):
                    self.assertEqual((out / name).read_text(), (model / name).read_text())

    def test_torchao_keeps_its_weights(self):
        # Offsets near 0 may take the neighbouring value, which stands for the same zero.
        first = self.made("torchao", "torchao")
        second = self.convert(first, "torchao-again", "torchao")
        self.expect_exact(second)
        for path in (first, second):
            self.run_to_end("dequantize", path, self.root / f"{path.name}-plain", "--dtype", "f32", *QUIET)
        self.expect_same_tensors(self.root / "torchao-again-plain", self.root / "torchao-plain")

    def test_what_is_not_exact_is_told(self):
        hqq = self.made("hqq", "hqq")
        for form, why in (("mlx", "offsets are rounded to F16"), ("torchao", "offsets are rounded to F16"),
                          ("awq", "awq has no fractional zeros here"), ("gguf", "offsets are rounded to F16")):
            out = self.convert(hqq, f"told-{form}", form)
            found = self.conversion(out)
            self.assertEqual(found["exact_layers"], 0)
            self.assertEqual({layer["why"] for layer in found["changed_layers"]}, {why})
            self.assertTrue(all(0 < layer["rms_error"] < 1e-2 for layer in found["changed_layers"]))
            report = json.loads((out / "halfquad_report.json").read_text())
            limit = 0.08 if form == "awq" else 1e-3
            self.assertTrue(all(0 < layer["relative_error"] < limit for layer in report["layers"]))
            self.run_to_end("verify", out, "--source", hqq, *QUIET)
            # What it was converted from is what errors are against.
            self.run_to_end("verify", out, "--source", self.model, *QUIET, code=BAD_INPUT)

    def test_tables_of_values_are_solved_again_where_there_are_none(self):
        if not WITH_HDF5:
            self.skipTest("built without HDF5")
        tables = self.made("nf4", "hdf5", "--type", "nf4", "--scale-dtype", "f32")
        out = self.convert(tables, "nf4-mlx", "mlx")
        self.assertEqual({layer["why"] for layer in self.conversion(out)["changed_layers"]}, {"mlx has no nf4 codes"})
        self.run_to_end("verify", out, "--source", tables, *QUIET)
        halves = self.convert(tables, "nf4-f16", "hdf5", "--scale-dtype", "f16")
        self.assertEqual({layer["why"] for layer in self.conversion(halves)["changed_layers"]}, {"scales are rounded from F32 to F16"})
        self.run_to_end("verify", halves, "--source", tables, *QUIET)

    def test_another_width_or_group_is_solved_again_or_held_by_a_wider_one(self):
        three = self.made("hqq3", "hqq", "--bits", "3")
        wider = self.convert(three, "wider", "gguf")  # Q4_1 has room for their codes
        self.assertEqual({layer["bits"] for layer in json.loads((wider / "halfquad_report.json").read_text())["layers"]}, {"3"})
        self.assertLess(max(layer["rms_error"] for layer in self.conversion(wider)["changed_layers"]), 1e-4)
        six = self.made("ct6", "compressed-tensors", "--bits", "6", "--symmetric")
        shifted = self.convert(six, "shifted", "gguf")  # to the middle of 8 bits
        self.expect_exact(shifted)
        self.run_to_end("verify", shifted, "--source", six, *QUIET)
        eight = self.made("hqq8", "hqq", "--bits", "8")
        narrower = self.convert(eight, "narrower", "awq")
        self.assertEqual({layer["why"] for layer in self.conversion(narrower)["changed_layers"]}, {"4 bits instead of 8"})
        rows = self.made("rows", "hqq", "--group-size", "row")
        self.expect_exact(self.convert(rows, "rows-h5", "hdf5") if WITH_HDF5 else self.convert(rows, "rows-hqq", "hqq"))
        self.assertTrue(all(layer["given_grid"] for layer in self.conversion(self.convert(rows, "rows-mlx", "mlx"))["changed_layers"]))

    def test_refusals(self):
        gguf = self.made("gguf", "gguf")
        for more, code, part in ((["--format", "mlx"], USAGE, "pass --source"), (["--format", "gguf"], USAGE, "is a gguf file already"),
                                 (["--format", "none"], USAGE, "there is no format"),
                                 (["--format", "mlx", "--source", self.root / "nowhere"], 4, "does not exist")):
            text = self.run_to_end("convert", gguf, self.root / "refused", *more, *QUIET, code=code)
            self.assertIn(part, text)
            self.assertFalse((self.root / "refused").exists())
        self.assertIn("holds no quantized layer", self.run_to_end("convert", self.model, self.root / "refused", "--format", "mlx", *QUIET, code=BAD_INPUT))
        self.assertIn("does not make .gguf files", self.run_to_end("convert", self.made("hqq", "hqq"), self.root / "x.gguf", "--format", "mlx", *QUIET, code=USAGE))
        out = self.convert(self.made("hqq", "hqq"), "existing", "hqq")
        self.run_to_end("convert", self.made("hqq", "hqq"), out, "--format", "hqq", *QUIET, code=USAGE)
        self.run_to_end("convert", self.made("hqq", "hqq"), out, "--format", "hqq", "--overwrite", *QUIET)


class RanksTest(Conversions):
    def files(self, out: Path) -> dict:
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
                if path.is_file() and path.name != "halfquad_report.json"}

    def test_any_ranks_write_the_same_bytes(self):
        hqq, awq = self.made("hqq", "hqq"), self.made("awq", "awq")
        for source, form in ((hqq, "awq"), (hqq, "gguf"), (awq, "hqq"), (awq, "mlx")):
            expected = None
            for ranks, assembly in ((0, "auto"), (2, "direct"), (3, "gather")):
                with self.subTest(source=source.name, format=form, ranks=ranks):
                    out = self.convert(source, f"{source.name}-{form}-{ranks}", form, "--threads", "1", "--assembly", assembly, ranks=ranks)
                    found = self.files(out)
                    expected = expected or found
                    self.assertEqual(found, expected)

    def test_a_job_that_was_killed_is_continued(self):
        big = self.root / "big"
        self.run_to_end("synth", big, "--preset", "tiny", "--layers", "24", "--progress", "none")
        hqq = self.made("big-hqq", "hqq", model=big)
        start = time.monotonic()
        expected = self.files(self.convert(hqq, "whole", "awq", "--threads", "1"))
        whole = time.monotonic() - start
        out = self.root / "killed"
        broken_off = 0
        for attempt in range(6):
            process = subprocess.Popen([*map(str, [HALFQUAD, "convert", hqq, out, "--format", "awq", "--threads", "1", *QUIET])],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(whole * (attempt + 2) / 9)
            process.kill()
            process.wait(timeout=DEADLINE)
            if not out.exists():
                broken_off += 1
                self.run_to_end("convert", hqq, out, "--format", "awq", *QUIET, ranks=2)
            self.assertEqual(self.files(out), expected)
            shutil.rmtree(out)
        self.assertGreater(broken_off, 0)


class SourceTest(Conversions):
    """Names, orders and settings of the source for GGUF files."""

    def test_dequantized_gguf_is_the_source_again(self):
        for preset in ("tiny", "tiny-qwen3-moe", "tiny-deepseek-v3"):
            with self.subTest(preset=preset):
                model = self.root / f"source-{preset}"
                self.run_to_end("synth", model, "--preset", preset, "--progress", "none")
                # The plain model, where FP8 is decoded: nothing but what was quantized may differ.
                gguf = self.made(f"{preset}-gguf", "gguf", "--bits", "8", model=model)
                hqq = self.made(f"{preset}-hqq", "hqq", "--bits", "8", model=model)
                for name, options in ((f"{preset}-gguf", ["--source", model]), (f"{preset}-hqq", [])):
                    self.run_to_end("dequantize", self.root / name, self.root / f"{name}-plain", "--dtype", "f32", *options, *QUIET)
                found, wanted = (tensors_of(self.root / f"{preset}-{form}-plain") for form in ("gguf", "hqq"))
                missing = [name for name in wanted if name not in found]
                self.assertTrue(all(".layers.2." in name for name in missing), missing)  # the block for several tokens
                self.assertEqual([name for name in found if name not in wanted], [])
                quantized = {layer["module"] + ".weight" for layer in json.loads((gguf / "halfquad_report.json").read_text())["layers"]}
                for name, (dtype, shape, data) in found.items():
                    self.assertEqual(shape, wanted[name][1], name)
                    if name in quantized:  # both near the same weights; a permuted row would be far off
                        count = len(data) // 4
                        ours, theirs = (struct.unpack(f"<{count}f", raw) for raw in (data, wanted[name][2]))
                        off = sum((a - b) ** 2 for a, b in zip(ours, theirs)) / sum(b * b for b in theirs)
                        self.assertLess(off, 1e-3, name)
                    elif wanted[name][0] == dtype:
                        self.assertEqual(data, wanted[name][2], name)
                config = json.loads((self.root / f"{preset}-gguf-plain" / "config.json").read_text())
                self.assertEqual(config["torch_dtype"], "float32")
                self.assertNotIn("quantization_config", config)
                text = self.run_to_end("verify", gguf, "--source", model, *QUIET)
                self.assertRegex(text, rf"{len(quantized)} quantized")

    def test_verify_names_what_differs(self):
        gguf = self.made("gguf", "gguf")
        text = self.run_to_end("verify", gguf, "--source", self.model, *QUIET)
        self.assertRegex(text, "tensors of the source: .*9 kept: norm.*28 quantized")
        for name, wrong in (("model.layers.1.input_layernorm.weight", "differs from the source"), ("model.layers.2.self_attn.k_proj.weight", "mean absolute error")):
            other = self.root / "other"
            shutil.copytree(self.model, other)
            path = other / "model.safetensors"
            data = bytearray(path.read_bytes())
            length = struct.unpack("<Q", data[:8])[0]
            begin, end = json.loads(data[8:8 + length])[name]["data_offsets"]
            for at in range(begin, end, 2):
                data[8 + length + at] ^= 0xFF
            path.write_bytes(data)
            text = self.run_to_end("verify", gguf, "--source", other, *QUIET, code=DIFFERS)
            self.assertIn(name.removesuffix(".weight"), text)
            self.assertIn(wrong, text)
            shutil.rmtree(other)
        moe = self.root / "moe"
        self.run_to_end("synth", moe, "--preset", "tiny-qwen3-moe", "--progress", "none")
        self.assertIn("another checkpoint", self.run_to_end("verify", gguf, "--source", moe, *QUIET, code=BAD_INPUT))
        self.run_to_end("dequantize", gguf, self.root / "refused", "--source", moe, *QUIET, code=BAD_INPUT)
        self.assertFalse((self.root / "refused").exists())

    def test_verify_accounts_for_kept_tensors_of_every_format(self):
        model = self.root / "fp8"
        self.run_to_end("synth", model, "--preset", "tiny-deepseek-v3", "--progress", "none")
        for form in ("hqq", "mlx"):
            out = self.made(f"fp8-{form}", form, "--skip", "o_proj", model=model)  # kept, decoded from FP8
            text = self.run_to_end("verify", out, "--source", model, *QUIET)
            self.assertRegex(text, r"[1-9]\d* kept: linear layer")
            path = out / "model.safetensors"
            data = bytearray(path.read_bytes())
            length = struct.unpack("<Q", data[:8])[0]
            begin, _ = json.loads(data[8:8 + length])["model.layers.0.self_attn.o_proj.weight"]["data_offsets"]
            data[8 + length + begin] ^= 1
            path.write_bytes(data)
            (out / "halfquad_report.json").unlink()  # no checksums to find it by
            self.assertIn("o_proj.weight\" was to be kept unchanged", self.run_to_end("verify", out, "--source", model, *QUIET, code=DIFFERS))


class HistogramTest(Conversions):
    def test_codes_are_counted(self):
        for form, options in (("hqq", ["--bits", "3"]), ("gptq", ["--bits", "8"]), ("gguf", []), ("awq", [])):
            with self.subTest(format=form):
                out = self.made(f"counted-{form}", form, *options)
                found = json.loads(self.run_to_end("inspect", out, "--histograms", "--json", "--progress", "none"))
                shapes = {layer["module"]: layer["shape"] for layer in found["layers"]}
                self.assertEqual({layer["module"] for layer in found["histograms"]}, set(shapes))
                for layer in found["histograms"]:
                    self.assertEqual(len(layer["counts"]), 1 << int(options[1] if options else 4))
                    rows, cols = shapes[layer["module"]]
                    self.assertEqual(sum(layer["counts"]), rows * cols)
                    self.assertTrue(0 < layer["scales"][0] < layer["scales"][1])
                    # Gaussian weights: the middle is fuller than the ends.
                    counts = layer["counts"]
                    self.assertGreater(sum(counts[len(counts) // 4:-(len(counts) // 4)]), sum(counts) / 2)
        text = self.run_to_end("inspect", self.made("counted-gptq", "gptq"), "--histograms", "--tensor", r"layers\.0\.self_attn\.q_proj", "--progress", "none")
        self.assertEqual(len(re.findall(r"zeros .* to ", text)), 1)
        self.assertRegex(text, r"(?m)^ +248-255 +\d+ +\d+\.\d\d %")
        self.assertRegex(text, r"#{50}")

    def test_refusals(self):
        out = self.made("counted-hqq", "hqq", "--bits", "3")
        self.run_to_end("inspect", out, "--tensor", "x", code=USAGE)
        self.assertIn("finds none of the", self.run_to_end("inspect", out, "--histograms", "--tensor", "nowhere", code=USAGE))
        self.assertIn("regular expression", self.run_to_end("inspect", out, "--histograms", "--tensor", "(", code=USAGE))
        self.assertIn("holds no quantized layer", self.run_to_end("inspect", self.model, "--histograms", code=USAGE))


def main():
    global HALFQUAD, MPIEXEC, WITH_HDF5
    HALFQUAD, MPIEXEC = os.path.realpath(sys.argv[1]), sys.argv[2]
    version = subprocess.run([HALFQUAD, "--version"], capture_output=True, text=True, check=True).stdout
    WITH_HDF5 = re.search(r"^HDF5 +yes", version, re.MULTILINE) is not None
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)


if __name__ == "__main__":
    main()
