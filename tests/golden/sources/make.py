"""Writes the checkpoints beside this file, and what their weights mean (torch, numpy, safetensors)."""

import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


def f32(array):
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


class Model:
    def __init__(self, name, config):
        self.random = np.random.default_rng(len(name))
        self.name, self.config, self.shards, self.expected = name, config, [{}, {}], {}

    def plain(self, name, *shape):
        value = torch.from_numpy(self.random.standard_normal(shape, dtype=np.float32)).to(torch.bfloat16)
        self.shards[0][name] = self.expected[name] = value
        return value.to(torch.float32).numpy()

    def fp8(self, module, shape, block, scale_name, dtype=torch.float8_e4m3fn, scale_dtype=torch.float32, scale_shape=None):
        limit = 0x7E if dtype == torch.float8_e4m3fn else 0x7B
        codes = self.random.integers(0, limit + 1, shape, dtype=np.uint8) | (self.random.integers(0, 2, shape, dtype=np.uint8) << 7)
        grid = [-(-n // b) for n, b in zip(shape, block)]
        scale = f32(self.random.uniform(.001, .01, grid)).to(scale_dtype)
        weight = torch.from_numpy(codes).view(dtype)
        spread = np.repeat(np.repeat(scale.to(torch.float32).numpy(), block[0], 0), block[1], 1)[:shape[0], :shape[1]]
        self.shards[0][module + ".weight"] = weight
        self.shards[1][module + "." + scale_name] = scale.reshape(scale_shape if scale_shape is not None else grid)
        self.expected[module + ".weight"] = f32(weight.to(torch.float32).numpy() * spread)

    def fused_fp8(self, name, shape, block, scale_name, scale_shape=None):
        """Codes of `shape` [E, A, B], a scale for each expert's blocks of A x B."""
        codes = self.random.integers(0, 0x7F, shape, dtype=np.uint8) | (self.random.integers(0, 2, shape, dtype=np.uint8) << 7)
        grid = [shape[0]] + [-(-n // b) for n, b in zip(shape[1:], block)]
        scale = f32(self.random.uniform(.001, .01, grid))
        weight = torch.from_numpy(codes).view(torch.float8_e4m3fn)
        spread = scale.numpy().repeat(block[0], 1).repeat(block[1], 2)[:, :shape[1], :shape[2]]
        self.shards[0][name] = weight
        self.shards[1][name + scale_name] = scale.reshape(scale_shape or grid)
        return weight.to(torch.float32).numpy() * spread

    def int8(self, module, shape, block):
        codes = self.random.integers(-128, 128, shape, dtype=np.int8)
        scale = f32(self.random.uniform(.001, .01, [-(-n // b) for n, b in zip(shape, block)])).to(torch.bfloat16)
        self.shards[0][module + ".weight"] = torch.from_numpy(codes)
        self.shards[0][module + ".weight_scale"] = scale
        spread = np.repeat(np.repeat(scale.to(torch.float32).numpy(), block[0], 0), block[1], 1)
        self.expected[module + ".weight"] = f32(codes.astype(np.float32) * spread)

    def mxfp4(self, prefix, experts, rows, cols):
        blocks = self.random.integers(0, 256, (experts, rows, cols // 32, 16), dtype=np.uint8)
        scales = self.random.integers(110, 125, (experts, rows, cols // 32), dtype=np.uint8)
        self.shards[0][prefix + "_blocks"], self.shards[1][prefix + "_scales"] = torch.from_numpy(blocks), torch.from_numpy(scales)
        codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(experts, rows, cols // 32, 32)
        return np.ldexp(E2M1[codes], scales.astype(np.int32)[..., None] - 127).reshape(experts, rows, cols)

    def packed(self, module, rows, cols, bits, group, symmetric):
        groups = cols // group
        codes = self.random.integers(0, 1 << bits, (rows, cols), dtype=np.int64)
        zeros = np.full((rows, groups), 1 << (bits - 1)) if symmetric else self.random.integers(0, 1 << bits, (rows, groups), dtype=np.int64)
        scale = f32(self.random.uniform(.001, .01, (rows, groups))).to(torch.bfloat16)
        self.shards[0][module + ".weight_packed"] = torch.from_numpy(stream(codes, bits))
        self.shards[0][module + ".weight_scale"] = scale
        self.shards[0][module + ".weight_shape"] = torch.tensor([rows, cols])
        if not symmetric:
            self.shards[1][module + ".weight_zero_point"] = torch.from_numpy(np.ascontiguousarray(stream(zeros.T, bits).T))
        spread = scale.to(torch.float32).numpy().repeat(group, 1)
        self.expected[module + ".weight"] = f32((codes - zeros.repeat(group, 1)).astype(np.float32) * spread)

    def write(self):
        folder = HERE / self.name
        folder.mkdir(exist_ok=True)
        used = [shard for shard in self.shards if shard]
        names = ["model.safetensors"] if len(used) == 1 else [f"model-{i + 1:05}-of-{len(used):05}.safetensors" for i in range(len(used))]
        for name, shard in zip(names, used):
            save_file({key: value.contiguous() for key, value in shard.items()}, folder / name)
        if len(used) > 1:
            total = sum(t.numel() * t.element_size() for shard in used for t in shard.values())
            index = {"metadata": {"total_size": total}, "weight_map": {k: n for n, shard in zip(names, used) for k in sorted(shard)}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")
        save_file({k: v.contiguous() for k, v in self.expected.items()}, HERE / f"{self.name}_expected.safetensors")


def stream(codes, bits):
    """Dense, lowest bit first, along the last axis, in 32-bit words."""
    planes = ((codes[..., None] >> np.arange(bits)) & 1).astype(np.uint8).reshape(codes.shape[0], -1)
    planes = np.pad(planes, ((0, 0), (0, -planes.shape[1] % 32)))
    return np.packbits(planes, axis=1, bitorder="little").view("<i4")


def fp8_block():
    model = Model("fp8_block", {"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "hidden_size": 200, "num_hidden_layers": 1,
                                "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
                                                        "activation_scheme": "dynamic"}})
    model.fp8("model.layers.0.mlp.gate_proj", (130, 200), (128, 128), "weight_scale_inv")
    model.fp8("model.layers.0.mlp.experts.0.down_proj", (200, 128), (128, 128), "weight_scale_inv")
    model.fp8("model.layers.1.eh_proj", (256, 40), (128, 128), "weight_scale_inv", scale_dtype=torch.float8_e8m0fnu)
    model.plain("model.layers.0.mlp.gate.weight", 4, 200)
    model.plain("model.layers.0.input_layernorm.weight", 200)
    model.write()


def fp8_channel():
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}}}
    model = Model("fp8_channel", {"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config":
                                  {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}})
    model.fp8("model.layers.0.self_attn.q_proj", (6, 10), (1, 10), "weight_scale", scale_dtype=torch.bfloat16)
    model.fp8("model.layers.0.self_attn.k_proj", (6, 10), (1, 10), "weight_scale", torch.float8_e5m2, scale_shape=[6])
    model.fp8("model.layers.0.self_attn.v_proj", (6, 10), (6, 10), "weight_scale", scale_shape=[])
    model.fp8("model.layers.0.self_attn.o_proj", (6, 10), (6, 10), "weight_scale", scale_shape=[1])
    model.shards[1]["model.layers.0.self_attn.o_proj.input_scale"] = torch.tensor([1.5])
    model.write()


def packed_int():
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights},
              "group_1": {"targets": [r"re:.*k_proj$"], "weights": {**weights, "symmetric": True}},
              "group_2": {"targets": ["model.layers.0.self_attn.v_proj"], "weights": {**weights, "num_bits": 8}},
              "group_3": {"targets": [r"re:.*o_proj$"], "weights": {**weights, "num_bits": 3, "symmetric": True}},
              "group_4": {"targets": [r"re:.*up_proj$"], "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}}}
    model = Model("packed_int", {"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config":
                                 {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups,
                                  "ignore": ["lm_head"]}})
    model.packed("model.layers.0.self_attn.q_proj", 12, 96, 4, 32, False)
    model.packed("model.layers.0.self_attn.k_proj", 5, 64, 4, 32, True)
    model.packed("model.layers.0.self_attn.v_proj", 7, 64, 8, 32, False)
    model.packed("model.layers.0.self_attn.o_proj", 4, 64, 3, 32, True)
    model.packed("model.layers.0.mlp.up_proj", 4, 36, 8, 36, True)
    model.plain("lm_head.weight", 8, 16)
    model.write()


def split(model, prefix, gate_up, down, interleaved, dtype=torch.float32):
    """Experts [E, 2I, H] and [E, H, I] under their own names."""
    for e in range(gate_up.shape[0]):
        half = gate_up.shape[1] // 2
        gate, up = (gate_up[e, ::2], gate_up[e, 1::2]) if interleaved else (gate_up[e, :half], gate_up[e, half:])
        for name, value in (("gate_proj", gate), ("up_proj", up), ("down_proj", down[e])):
            model.expected[f"{prefix}.{e}.{name}.weight"] = f32(value).to(dtype)


def gpt_oss():
    model = Model("gpt_oss", {"model_type": "gpt_oss", "torch_dtype": "bfloat16", "hidden_size": 64, "intermediate_size": 96,
                              "num_local_experts": 3, "quantization_config": {"quant_method": "mxfp4"}})
    experts = "model.layers.0.mlp.experts"
    split(model, experts, model.mxfp4(experts + ".gate_up_proj", 3, 192, 64), model.mxfp4(experts + ".down_proj", 3, 64, 96), True)
    model.plain(experts + ".gate_up_proj_bias", 3, 192)
    model.plain(experts + ".down_proj_bias", 3, 64)
    model.plain("model.layers.0.mlp.router.weight", 3, 64)
    model.plain("model.layers.0.mlp.router.bias", 3)
    model.plain("model.layers.0.self_attn.sinks", 4)
    model.write()


def fused(name, config, prefix, transposed, interleaved=False):
    experts, hidden, inner = 2, 24, 10
    model = Model(name, {"torch_dtype": "bfloat16", **config})
    turn = (lambda a: a.transpose(0, 2, 1)) if transposed else (lambda a: a)
    shape = lambda rows, cols: (experts, cols, rows) if transposed else (experts, rows, cols)
    gate_up = turn(model.plain(prefix + ".gate_up_proj", *shape(2 * inner, hidden)))
    down = turn(model.plain(prefix + ".down_proj", *shape(hidden, inner)))
    del model.expected[prefix + ".gate_up_proj"], model.expected[prefix + ".down_proj"]
    split(model, prefix, gate_up, down, interleaved, torch.bfloat16)
    model.write()


def int8():
    weights = {"num_bits": 8, "type": "int", "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": {**weights, "strategy": "channel"}},
              "group_1": {"targets": [r"re:.*k_proj$"], "weights": {**weights, "strategy": "group", "group_size": 8}}}
    model = Model("int8", {"model_type": "llama", "torch_dtype": "bfloat16", "quantization_config":
                           {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}})
    model.int8("model.layers.0.self_attn.q_proj", (6, 10), (1, 10))
    model.int8("model.layers.0.self_attn.k_proj", (6, 24), (1, 8))
    model.plain("lm_head.weight", 8, 16)
    model.write()


def fp8_experts(name, config, quantization, prefix, transposed, block, scale_name, scales=(None, None)):
    """`block`: of a stored matrix; None for an output."""
    experts, hidden, inner = 3, 24, 10
    model = Model(name, {"torch_dtype": "bfloat16", **config, "quantization_config": quantization})
    fused = []
    for projection, rows, cols, shape in (("gate_up_proj", 2 * inner, hidden, scales[0]), ("down_proj", hidden, inner, scales[1])):
        stored = (experts, cols, rows) if transposed else (experts, rows, cols)
        size = block or ((cols, 1) if transposed else (1, cols))
        weight = model.fused_fp8(f"{prefix}.{projection}", stored, size, scale_name, shape)
        fused.append(weight.transpose(0, 2, 1) if transposed else weight)
    split(model, prefix, *fused, False)
    model.write()


fp8_block()
fp8_channel()
int8()
fp8_experts("fp8_llama4", {"model_type": "llama4", "text_config": {"hidden_size": 24, "intermediate_size": 10, "num_local_experts": 3}},
            {"quant_method": "fbgemm_fp8"}, "language_model.model.layers.0.feed_forward.experts", True, None, "_scale",
            ((3, 1, 20), (3, 24, 1)))
fp8_experts("fp8_qwen3_vl_moe", {"model_type": "qwen3_vl_moe", "text_config": {"hidden_size": 24, "moe_intermediate_size": 10}},
            {"quant_method": "fp8", "weight_block_size": [8, 5]}, "model.language_model.layers.0.mlp.experts", True, (8, 5), "_scale_inv")
fp8_experts("fp8_experts", {"model_type": "qwen3_moe", "hidden_size": 24, "moe_intermediate_size": 10},
            {"quant_method": "fp8", "weight_block_size": [5, 8]}, "model.layers.0.mlp.experts", False, (5, 8), "_scale_inv")
packed_int()
gpt_oss()
fused("qwen3_moe", {"model_type": "qwen3_moe", "hidden_size": 24, "moe_intermediate_size": 10, "intermediate_size": 99, "num_experts": 2},
      "model.layers.0.mlp.experts", False)
fused("qwen3_vl_moe", {"model_type": "qwen3_vl_moe", "text_config": {"hidden_size": 24, "moe_intermediate_size": 10, "num_experts": 2}},
      "model.language_model.layers.0.mlp.experts", True)
fused("llama4", {"model_type": "llama4", "text_config": {"hidden_size": 24, "intermediate_size": 10, "intermediate_size_mlp": 99,
                                                         "num_local_experts": 2}},
      "language_model.model.layers.0.feed_forward.experts", True)
fused("gpt_oss_bf16", {"model_type": "gpt_oss", "hidden_size": 24, "intermediate_size": 10, "num_local_experts": 2},
      "model.layers.0.mlp.experts", True, True)
