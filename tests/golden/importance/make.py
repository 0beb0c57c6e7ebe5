"""Writes importance files as other programs do, for a tiny model of two blocks, the second with four experts.

imatrix.gguf by gguf-py (gguf 0.17 or newer), as llama.cpp's imatrix tool lays it out; imatrix.dat as that tool's
--output-format dat does; modules.safetensors by the safetensors library.
"""

import struct
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
HIDDEN, INNER, EXPERTS = 64, 96, 4


def values(name, cols):
    """E[x²] of the inputs of a layer: a few loud channels."""
    random = np.random.default_rng(list(name.encode()))
    return (0.01 * np.exp(2 * random.standard_normal(cols))).astype(np.float32)


def entries():
    """GGUF name, one row for each expert, tokens each row saw."""
    out = {}
    for block in range(2):
        attention = values(f"{block}.attention", HIDDEN)[None]
        for name in ("attn_q", "attn_k", "attn_v"):
            out[f"blk.{block}.{name}.weight"] = attention, np.array([512])
        out[f"blk.{block}.attn_output.weight"] = values(f"{block}.output", HIDDEN)[None], np.array([512])
    for name in ("ffn_gate", "ffn_up"):
        out[f"blk.0.{name}.weight"] = values("0.up", HIDDEN)[None], np.array([512])
    out["blk.0.ffn_down.weight"] = values("0.down", INNER)[None], np.array([512])
    counts = np.array([300, 0, 200, 12])
    for name, cols in (("ffn_gate", HIDDEN), ("ffn_up", HIDDEN), ("ffn_down", INNER)):
        rows = np.stack([values(f"1.{'down' if cols == INNER else 'up'}.{e}", cols) for e in range(EXPERTS)])
        out[f"blk.1.{name}_exps.weight"] = rows * (counts > 0)[:, None], counts
    return out


def write_gguf(path):
    writer = gguf.GGUFWriter(path, arch="")
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (rows, counts) in sorted(entries().items()):
        writer.add_tensor(name + ".in_sum2", (rows * counts[:, None]).astype(np.float32))
        writer.add_tensor(name + ".counts", counts.astype(np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_legacy(path):
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(entries())))
        for name, (rows, counts) in sorted(entries().items()):
            calls = -(-int(counts.max()) // 512)
            data = (np.where(counts[:, None] > 0, rows, 1) * calls).astype("<f4")
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, data.size))
            file.write(data.tobytes())
        text = b"calibration.txt"
        file.write(struct.pack("<ii", 1, len(text)) + text)


def write_safetensors(path):
    modules = {}
    for block in range(2):
        for name in ("q_proj", "k_proj", "v_proj"):
            modules[f"model.layers.{block}.self_attn.{name}"] = values(f"{block}.attention", HIDDEN)
        modules[f"model.layers.{block}.self_attn.o_proj.weight"] = values(f"{block}.output", HIDDEN)
    modules["model.layers.0.mlp.gate_up_proj"] = values("0.up", HIDDEN)
    modules["model.layers.0.mlp.down_proj"] = values("0.down", INNER).astype(np.float64)
    modules["model.layers.1.mlp.experts.gate_up_proj"] = np.stack([values(f"1.up.{e}", HIDDEN) for e in range(EXPERTS)])
    modules["model.layers.1.mlp.experts.0.down_proj"] = values("1.down.0", INNER)
    save_file(modules, path)


if __name__ == "__main__":
    write_gguf(HERE / "imatrix.gguf")
    write_legacy(HERE / "imatrix.dat")
    write_safetensors(HERE / "modules.safetensors")
