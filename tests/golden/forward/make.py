#!/usr/bin/env python3
"""Tiny random decoders of every family and the mean squares of their linear layers' inputs, as transformers computes
them in fp32. Usage: HF_HUB_OFFLINE=1 make.py [FAMILY ...]; writes beside itself.

For each family: config.json and model.safetensors (bf16), tokens.txt (a sequence a line) and expected.safetensors.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             vocab_size=64, max_position_embeddings=64, pad_token_id=None, bos_token_id=None, eos_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.3], long_factor=[2.0, 4.0],
                original_max_position_embeddings=32, partial_rotary_factor=0.5)
GEMMA3_ROPE = dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
                   sliding_attention=dict(rope_type="default", rope_theta=10000.0))
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)

FAMILIES = {
    "llama": dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rope_parameters=LLAMA3),
    "mistral": dict(head_dim=12, sliding_window=32, tie_word_embeddings=False),
    "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(head_dim=16, tie_word_embeddings=True),
    "phi3": dict(tie_word_embeddings=False, rope_parameters=LONGROPE, original_max_position_embeddings=32),
    "gemma": dict(head_dim=16),
    "gemma2": dict(head_dim=16, query_pre_attn_scalar=24, attn_logit_softcapping=5.0, sliding_window=32),
    "gemma3_text": dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=32, rope_parameters=GEMMA3_ROPE,
                        layer_types=["sliding_attention", "full_attention"]),
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False),
    "qwen3_moe": dict(head_dim=16, norm_topk_prob=False, tie_word_embeddings=False, **EXPERTS),
    "qwen2_moe": dict(norm_topk_prob=True, shared_expert_intermediate_size=40, tie_word_embeddings=False,
                      mlp_only_layers=[0], **EXPERTS),
}
FEWEST_EXPERT_TOKENS = 32  # with fewer, halfquad measures other tokens of an expert too


def randomize(model: nn.Module):
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, dtype=torch.float32)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif "norm" in name:
            value = (0.0 if "gemma" in model.config.model_type else 1.0) + 0.3 * noise
        else:
            value = noise * (0.5 if "embed" in name else 2.0 / parameter.shape[-1] ** 0.5)
        with torch.no_grad():
            parameter.copy_(value)


class Measured:
    """Sums of squares by module."""

    def __init__(self, model: nn.Module):
        self.sums, self.counts = {}, {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs, name=name: self.add(name, inputs[0]))
            elif name.endswith(".experts"):
                module.register_forward_pre_hook(lambda module, inputs, name=name: self.add_experts(name, module, *inputs))

    def add(self, name: str, inputs: torch.Tensor):
        rows = inputs.reshape(-1, inputs.shape[-1]).double()
        self.sums[name] = self.sums.get(name, 0) + (rows * rows).sum(0)
        self.counts[name] = self.counts.get(name, 0) + rows.shape[0]

    def add_experts(self, name: str, module: nn.Module, hidden, chosen, weights):
        names = ("w1", "w3", "w2") if "block_sparse_moe" in self.stored(name) else ("gate_proj", "up_proj", "down_proj")
        for expert in range(module.gate_up_proj.shape[0]):
            rows = hidden[(chosen == expert).any(-1)]
            gate, up = (rows @ module.gate_up_proj[expert].T).chunk(2, -1)
            for part, inputs in zip(names, (rows, rows, module.act_fn(gate) * up)):
                self.add(f"{self.stored(name)}.{expert}.{part}", inputs)

    def stored(self, name: str) -> str:
        return name.replace("mlp.experts", "block_sparse_moe.experts") if self.is_mixtral else name

    is_mixtral = False

    def means(self) -> dict:
        few = [name for name, count in self.counts.items() if count < FEWEST_EXPERT_TOKENS]
        assert not few, few
        return {name: (self.sums[name] / self.counts[name]).float() for name in self.sums}


def make(family: str):
    torch.manual_seed(sum(map(ord, family)))
    folder = HERE / family
    shutil.rmtree(folder, ignore_errors=True)
    config = AutoConfig.for_model(family, **(SIZES | FAMILIES[family]))
    model = AutoModelForCausalLM.from_config(config)
    randomize(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    # Read back, so that what is no parameter (rotary frequencies, scales) has never been bf16.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    lengths = [8] * 12 + [5, 1, 17, 2, 12, 8, 9, 10]
    sequences = [torch.randint(0, SIZES["vocab_size"], (length,)) for length in lengths]
    measured = Measured(model)
    measured.is_mixtral = family == "mixtral"
    with torch.no_grad():
        for sequence in sequences:
            model(sequence[None])
    means = measured.means()
    if config.tie_word_embeddings:
        means.pop("lm_head")
    means = {name: mean for name, mean in means.items() if not name.endswith("shared_expert_gate")}
    (folder / "tokens.txt").write_text("".join(" ".join(map(str, s.tolist())) + "\n" for s in sequences))
    save_file(means, folder / "expected.safetensors")
    print(family, len(means), "modules;", sorted(load_file(folder / "model.safetensors"))[:4])


if __name__ == "__main__":
    for chosen in sys.argv[1:] or FAMILIES:
        make(chosen)
