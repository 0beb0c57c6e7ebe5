"""What quantizing does to small language models: KL divergence to the float model, perplexity, agreement of the first choice.

usage: quality.py HALFQUAD [--work DIR] [--models NAME ...] [--cases REGEX] [--ways REGEX] [--sequences N] [--length N] [--seed N]

tests/bench/quality/run installs what this needs. Models and texts come from public packages (baselines.py, texts.py); nothing
of them was used to make halfquad's solvers but what numerics say of the models themselves. Everything runs in fp32 on the CPU.
"""

import argparse
import os
import re
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from baselines import MODELS, baseline
from measure import Judge, load
from texts import CALIBRATION, PACKAGES, sequences
from transformers import AutoTokenizer
from ways import GROUP, Halfquad, hqq_library, layers_of, llama_cpp, nf4, replaced, text_importance

HQQ, RTN = ["--solver", "hqq"], ["--solver", "rtn"]
ALS, UNWEIGHTED, GUESSED = ["--solver", "als"], ["--importance", "none"], ["--importance", "weights"]


def every(step: int) -> list:
    """Options that quantize one block of `step`: small models die of few bits everywhere."""
    return ["--skip", rf"layers\.(?!({'|'.join(str(i) for i in range(0, 100, step))})\.)\d+\."]


def every_layer(step: int) -> list:
    """The same of one linear layer of `step`, so that all kinds have their turn."""
    kinds = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
             "mlp.down_proj"]
    names = [f"{block}.{kind}" for block in range(100) for kind in kinds][::step]
    return ["--skip", rf"layers\.(?!({'|'.join(map(re.escape, names))})\.)"]


# Name -> (options of what is quantized, {way: how}); how: more options of halfquad, or a function of a weight.
def cases(random: Path, text: Path) -> dict:
    given = {"als, 1024 random tokens": ["--importance", random], "als, real text": ["--importance", text]}
    plain = {"rtn": RTN, "hqq": HQQ, "als, columns alike": UNWEIGHTED, "als, guessed": GUESSED, "als": ALS} | given
    width = lambda bits: ["--bits", str(bits), "--group-size", str(GROUP)]
    down = ["--skip", r"layers\.\d+\.(?!mlp\.down_proj)", "--format", "gguf"]  # rows that super-blocks of 256 divide
    found = {
        "4 bit": (width(4), plain | {"hqq library": hqq_library(4), "nf4": nf4}),
        "3 bit, every 3rd block": (width(3) + every(3), plain),
        "2 bit, every 6th block": (width(2) + every(6), plain),
        "3 bit, every 3rd layer": (width(3) + every_layer(3), plain),
        "2 bit, every 10th layer": (width(2) + every_layer(10), plain),
        "4 bit, whole zeros": (width(4) + ["--format", "compressed-tensors"],
                               {"hqq library, zeros rounded": hqq_library(4, whole_zeros=True), "rtn": RTN,
                                "als, columns alike": UNWEIGHTED, "als, guessed": GUESSED, "als": ALS} | given),
    }
    found["3 and 4 bit mixed"] = (["--format", "mlx"], {  # 3.9 bits a weight, and 4.0 where 3 bit are alone
        "halfquad": ["--target-bpw", "3.9", "--group-size", "64"],
        "MLP inputs first": [*width(3), "--rule", r"layers\.\d*[1-46-9]\..*(gate|up)_proj=bits:4"],
        "3 bit, groups of 32": ["--bits", "3", "--group-size", "32"]})
    for name in ("Q4_K", "Q3_K", "Q2_K"):
        found[f"{name}, down_proj"] = (down + ["--type", name], {"llama.cpp": llama_cpp(name), "columns alike": UNWEIGHTED, "guessed": GUESSED, "halfquad": []} | given)
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("halfquad", type=Path)
    parser.add_argument("--work", type=Path, default=Path("quality-work"), help="for downloads and models; 4 GB")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--cases", help="only cases that this regular expression finds")
    parser.add_argument("--ways", help="only ways to quantize that this regular expression finds")
    parser.add_argument("--sequences", type=int, default=6, help="of each of the texts")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0, help="of the noise that moves weights off their grid")
    return parser.parse_args()


def main():
    options = arguments()
    halfquad = Halfquad(options.halfquad.resolve(), options.work.resolve())
    options.work.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    for name in options.models:
        source = baseline(name, options.work.resolve(), options.seed)
        tokenizer = AutoTokenizer.from_pretrained(source)
        texts = lambda packages, count: sequences(tokenizer, options.work / "texts", packages, count, options.length)
        original = load(source)
        judge = Judge(original, texts(PACKAGES, options.sequences))
        random = halfquad.random_token_importance(source, options.seed)
        text = text_importance(source, texts(CALIBRATION, 32), halfquad.folder / "text.safetensors")
        print(f"{name}, seed {options.seed}, {len(judge.sequences)} sequences of {options.length} tokens from {', '.join(PACKAGES)}; "
              f"float perplexity {judge.compare(original)['perplexity']:.2f}", flush=True)
        for case, (what, ways) in cases(random, text).items():
            if options.cases and not re.search(options.cases, case):
                continue
            modules = None
            if options.ways:
                ways = {way: how for way, how in ways.items() if re.search(options.ways, way)}
            for way, how in sorted(ways.items(), key=lambda pair: callable(pair[1])):  # halfquad's say which layers
                begin = time.monotonic()
                if callable(how):
                    if modules is None:
                        raise SystemExit("--ways must leave a way of halfquad, which says what layers there are")
                    model = replaced(source, modules, how)
                else:
                    model, report = halfquad.model(source, *what, *how)
                    modules = layers_of(report)
                found = judge.compare(model)
                print(f"  {case:24} {way:26} KL {found['kl']}  perplexity {found['perplexity']:8.2f}  "
                      f"same first choice {found['agreement']}  [{len(modules)} layers, {time.monotonic() - begin:.0f} s]",
                      flush=True)


if __name__ == "__main__":
    main()
