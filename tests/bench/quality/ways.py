"""The ways to quantize that are compared. Each takes the float checkpoint and gives the weights of a model, quantized and back.

halfquad's go through the program: quantize, then dequantize. The others are the published implementations, applied to the same
layers of the same weights.
"""

import ctypes
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy
import torch
from gguf import GGMLQuantizationType, quants
from measure import load
from safetensors.torch import save_file

GROUP = 64
QUIET = ["--progress", "none", "--log-level", "off"]
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


class Halfquad:
    def __init__(self, program: Path, folder: Path):
        self.program, self.folder = program, folder

    def model(self, source: Path, *options: str):
        """The model with what quantize makes of it, and the bits a weight of its quantized layers."""
        out, plain = self.folder / "quantized", self.folder / "plain"
        for old in (out, plain):
            shutil.rmtree(old, ignore_errors=True)
        subprocess.run([self.program, "quantize", source, out, *options, *QUIET], check=True, stdout=subprocess.DEVNULL)
        report = json.loads((out / "halfquad_report.json").read_text())
        subprocess.run([self.program, "dequantize", out, plain, "--dtype", "f32", "--source", source, *QUIET], check=True,
                       stdout=subprocess.DEVNULL)
        return load(plain), report


    def random_token_importance(self, source: Path, seed: int) -> Path:
        """The file of `halfquad importance` with its defaults."""
        file = self.folder / "random.safetensors"
        subprocess.run([self.program, "importance", source, file, "--seed", str(seed), "--overwrite", *QUIET], check=True,
                       stdout=subprocess.DEVNULL)
        return file


@torch.no_grad()
def text_importance(source: Path, sequences: torch.Tensor, file: Path) -> Path:
    """A file of the mean square of every input of every linear layer, over the tokens of real text."""
    model, sums = load(source), {}

    def add(name, inputs):
        sums[name] = sums.get(name, 0) + inputs.double().square().flatten(0, -2).sum(0)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda module, inputs, name=name: add(name, inputs[0]))
    for part in sequences.split(4):
        model.model(input_ids=part)
    save_file({name: (total / sequences.numel()).float() for name, total in sums.items()}, file)
    return file


def layers_of(report: dict) -> list:
    return [layer["module"] for layer in report["layers"]]


def replaced(source: Path, modules: list, change):
    """The float model with change(weight) in place of the weight of each module."""
    model = load(source)
    with torch.no_grad():
        for module in modules:
            weight = model.get_parameter(f"{module}.weight")
            weight.copy_(change(weight.detach().clone()))
    return model


def hqq_library(bits: int, whole_zeros: bool = False):
    """The hqq library's own solver; whole_zeros: its zeros rounded afterwards, and the codes taken again for them."""
    from hqq.core.quantize import Quantizer

    def change(weight):
        codes, meta = Quantizer.quantize(weight, nbits=bits, group_size=GROUP, axis=1, optimize=True, round_zero=bits == 4,
                                         device="cpu", compute_dtype=torch.float32)
        if not whole_zeros:
            return Quantizer.dequantize(codes, meta)
        groups, scale = weight.reshape(-1, GROUP), meta["scale"].float().reshape(-1, 1)
        zero = meta["zero"].float().reshape(-1, 1).round().clamp(0, 2**bits - 1)
        found = (groups / scale + zero).round().clamp(0, 2**bits - 1)
        return ((found - zero) * scale).reshape(weight.shape)

    return change


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """NormalFloat codes with the largest weight of each group as its scale, as bitsandbytes has it."""
    table, groups = torch.tensor(NF4), weight.reshape(-1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True)
    nearest = torch.bucketize(groups / scale.clamp(min=1e-30), (table[1:] + table[:-1]) / 2)
    return (table[nearest] * scale).reshape(weight.shape)


def llama_cpp(name: str):
    """llama.cpp's own search for a type, without an importance matrix."""
    folder = Path(importlib.util.find_spec("xllamacpp").submodule_search_locations[0])
    library = ctypes.CDLL(str(next(folder.glob("*.so"))))
    kind = GGMLQuantizationType[name]
    block, block_bytes = quants.GGML_QUANT_SIZES[kind]
    search = library.ggml_quantize_chunk
    search.restype = ctypes.c_size_t
    search.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                       ctypes.c_void_p]

    def change(weight):
        rows, columns = weight.shape
        values = numpy.ascontiguousarray(weight.numpy())
        packed = numpy.empty((rows, columns // block * block_bytes), numpy.uint8)
        if search(kind.value, values.ctypes.data, packed.ctypes.data, 0, rows, columns, None) != packed.nbytes:
            raise RuntimeError(f"llama.cpp did not make {packed.nbytes} bytes of {name}")
        return torch.from_numpy(quants.dequantize(packed, kind))

    return change
