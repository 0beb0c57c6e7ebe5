"""Models, outputs and reports that the tests of reports share."""

import json
import math
import random
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

QUIET = ["--progress", "none", "--log-level", "off"]
EVIL = "model.layers.1.mlp.<script>alert(1)</script>\"'&\u202e\x1b[31m\n"


class ReportTest(unittest.TestCase):
    halfquad = ""

    def setUp(self):
        self.root = Path(tempfile.mkdtemp(prefix="halfquad-report-"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)

    def run_program(self, *arguments, code=0):
        done = subprocess.run([self.halfquad, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                              check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def quantize(self, model, out, *options):
        self.run_program("quantize", model, out, "--threads", "2", *options, *QUIET)
        return out

    def synth(self, name="model", preset="tiny", layers=3):
        model = self.root / name
        self.run_program("synth", model, "--preset", preset, "--layers", layers, "--progress", "none")
        return model

    def report_html(self, *arguments):
        page = self.root / "report.html"
        self.run_program("report", *arguments, "--html", page, "--progress", "none")
        return page

    def report_json(self, *arguments):
        return json.loads(self.run_program("report", *arguments, "--json", "-", "--progress", "none"))


def write_model(folder, names, rows=64, cols=64):
    """A checkpoint of small fp32 layers of these names."""
    rng = random.Random(7)
    values = [rng.gauss(0, 0.02) for _ in range(rows * cols)]
    header, at = {}, 0
    for name in names:
        header[name] = {"dtype": "F32", "shape": [rows, cols], "data_offsets": [at, at + 4 * rows * cols]}
        at += 4 * rows * cols
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in names:
            file.write(struct.pack(f"<{rows * cols}f", *values))


def read_tensor(path, name):
    """An F32 or BF16 tensor of a safetensors file, as floats."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8:8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    if entry["dtype"] == "F32":
        return list(struct.unpack(f"<{(end - begin) // 4}f", data[begin:end]))
    assert entry["dtype"] == "BF16"
    halves = struct.unpack(f"<{(end - begin) // 2}H", data[begin:end])
    return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def count_bins(values, view):
    """What a histogram with the bins of `view` has to hold."""
    counts, below, above = [0] * len(view["counts"]), 0, 0
    for value in values:
        index = math.floor((value - view["low"]) / view["width"])
        if index < 0:
            below += 1
        elif index >= len(counts):
            above += 1
        else:
            counts[index] += 1
    return counts, below, above
