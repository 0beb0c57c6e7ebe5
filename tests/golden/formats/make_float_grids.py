"""Writes float_grids.safetensors: layers of floating-point codes as compressed-tensors and gguf-py write and read them.

Usage: make_float_grids.py OUT.safetensors    (needs compressed-tensors 0.20, gguf 0.19, torch, safetensors)
"""

import sys

import gguf
import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4 import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file

SHAPES = {"small": (3, 64), "wide": (33, 160)}


def weights(rows: int, cols: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = 0.02 * torch.randn(rows, cols, generator=generator)
    w[:, 7] *= 20
    w[0, :32] = 0
    w[1, 32:64] *= 2.0**-9  # far below the others: E4M3 scales without all their bits
    return w


def compressed(w: torch.Tensor, kind: str) -> dict:
    size = {"nvfp4": 16, "mxfp4": 32}[kind]
    args = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group" if kind == "nvfp4" else "group",
                            group_size=size, symmetric=True, scale_dtype=torch.float8_e4m3fn if kind == "nvfp4" else torch.uint8)
    groups = w.unflatten(1, (-1, size))
    low, high = groups.amin(-1), groups.amax(-1)
    parts = {}
    if kind == "nvfp4":
        parts["weight_global_scale"] = generate_gparam(w.amin(), w.amax())
    parts["weight_scale"], _ = calculate_qparams(low, high, args, global_scale=parts.get("weight_global_scale"))
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(kind + "-pack-quantized")
    parts = compressor.compress({"weight": w, **parts}, scheme)
    codes = unpack_fp4_from_uint8(parts["weight_packed"], *w.shape, dtype=torch.float32)
    scale = compressor._decompress_scale(parts["weight_scale"], torch.float32)
    parts["decoded"] = dequantize(x_q=codes, scale=scale, args=args, global_scale=parts.get("weight_global_scale"), dtype=torch.float32)
    assert torch.equal(compressor.decompress(parts, scheme)["weight"], parts["decoded"].bfloat16())
    return parts


def blocks(w: torch.Tensor) -> dict:
    kind = gguf.GGMLQuantizationType.MXFP4
    packed = gguf.quantize(w.numpy(), kind)
    return {"blocks": torch.from_numpy(packed), "decoded": torch.from_numpy(gguf.dequantize(packed, kind).astype(np.float32))}


def nvfp4_blocks(rows: int, cols: int, seed: int) -> dict:
    """Any bytes but scales that are no numbers: gguf-py reads these blocks, and does not make them."""
    kind = gguf.GGMLQuantizationType.NVFP4
    packed = np.random.default_rng(seed).integers(0, 256, (rows, cols // 64, 36), dtype=np.uint8)
    packed[..., :4] %= 0x7F
    packed = packed.reshape(rows, -1)
    return {"blocks": torch.from_numpy(packed), "decoded": torch.from_numpy(gguf.dequantize(packed, kind).astype(np.float32))}


def main():
    tensors = {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        w = weights(*shape, seed)
        tensors[f"{name}.weight"] = w
        for kind in ("nvfp4", "mxfp4"):
            tensors |= {f"{name}.{kind}.{key}": value.detach() for key, value in compressed(w, kind).items()}
        tensors |= {f"{name}.gguf.{key}": value for key, value in blocks(w).items()}
        tensors |= {f"{name}.gguf_nvfp4.{key}": value for key, value in nvfp4_blocks(shape[0], shape[1] // 64 * 64, seed).items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
