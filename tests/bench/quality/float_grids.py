"""What searching the scales of floating-point codes is worth: NVFP4, MXFP4 and tables of values rounded with the largest
scale, as other tools do it, beside the scales that halfquad finds, on Gaussian weights and on an encoder; beside the
tables, whole steps at equal bits (tables have no zeros: 0.25 bits less a weight in groups of 64 with F16 scales).

Usage: float_grids.py HALFQUAD [--model DIR]

Prints, for each way, ||W - W'|| / ||W|| over a Gaussian matrix and over all quantized layers of the encoder, and
1 - cosine of the encoder's sentence embeddings to those of the source (encoder_cosine.py, which says what it needs).
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from encoder_cosine import Encoder  # sets what transformers reads when it is imported

import torch
from safetensors.torch import save_file

QUIET = ["--progress", "none", "--log-level", "off"]
KINDS = {kind: ["--type", kind] for kind in ("nvfp4", "mxfp4")}
for width, tables in ((4, ("fp4-e2m1", "nf4", "learned4")), (3, ("fp3-e2m0", "fp3-e1m1", "learned3"))):
    KINDS[f"{width} bit"] = ["--bits", width, "--format", "hdf5"]
    KINDS |= {kind: ["--type", kind] for kind in tables}
WAYS = {
    "rounded with the largest scale": ["--solver", "rtn"],
    "searched, all columns alike": ["--importance", "none"],
    "searched": [],
}


def quantize(halfquad: Path, model: Path, out: Path, options: list) -> float:
    """Returns the relative error over all layers."""
    subprocess.run([str(word) for word in (halfquad, "quantize", model, out, *options, *QUIET)], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "halfquad_report.json").read_text())["totals"]["relative_error"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("halfquad", type=Path)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    halfquad, encoder = options.halfquad.resolve(), Encoder(options.model, parser)
    with tempfile.TemporaryDirectory(prefix="halfquad-floats-") as name:
        folder = Path(name)
        gauss = folder / "gauss"
        gauss.mkdir()
        save_file({"model.layers.0.mlp.down_proj.weight": torch.randn(1024, 4096) * 0.02}, gauss / "model.safetensors")
        print(f"{'':8} {'':31} {'Gaussian':>9} {'encoder':>9} {'1 - cosine':>11}")
        for kind, asked in KINDS.items():
            for way, more in WAYS.items():
                out = folder / f"{kind}-{len(more)}-{way[:3]}"
                flat = quantize(halfquad, gauss, folder / f"{out.name}-gauss", [*asked, *more])
                real = quantize(halfquad, encoder.model, out, [*asked, *more])
                plain = folder / f"{out.name}-plain"
                subprocess.run([halfquad, "dequantize", out, plain, "--dtype", "f32", *QUIET], check=True, stdout=subprocess.DEVNULL)
                off = encoder.off(plain).mean()
                print(f"{kind:8} {way:31} {flat:9.4f} {real:9.4f} {off:11.5f}", flush=True)


if __name__ == "__main__":
    main()
