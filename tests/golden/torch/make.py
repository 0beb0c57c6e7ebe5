"""Writes the state dicts beside this file with torch.save() and what they hold (torch, safetensors)."""

import collections
import pathlib

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent

grid = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7
state = collections.OrderedDict([
    ("b.weight", grid.to(torch.bfloat16)),
    ("h.weight", torch.nn.Parameter(grid.to(torch.float16))),
    ("f.weight", grid),
    ("tied.weight", grid),
    ("rows.weight", grid[1:]),
    ("column.weight", grid.reshape(12, 1)),
    ("d.weight", grid.to(torch.float64)),
    ("count", torch.tensor(7)),
    ("mask", torch.tensor([True, False, True])),
    ("small", torch.arange(4, dtype=torch.int8)),
    ("none", torch.zeros(0, 4)),
])
state._metadata = collections.OrderedDict([("", {"version": 1})])
torch.save(state, HERE / "state.pt")
torch.save({"w": grid.t()}, HERE / "transposed.pt")
torch.save({"model": dict(state)}, HERE / "nested.pt")
torch.save(dict(state), HERE / "legacy.pt", _use_new_zipfile_serialization=False)
save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, HERE / "expected.safetensors")
