"""How far a language model is from its float original: KL divergence, perplexity, and how often both say the same token."""

import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

POSITIONS = 128  # whose logits are held at a time


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def last_states(model, sequences: torch.Tensor) -> torch.Tensor:
    """What the output head is given, [sequences, tokens, width]."""
    return torch.cat([model.model(input_ids=part).last_hidden_state for part in sequences.split(4)])


class Mean:
    """A mean over sequences, with twice its standard error."""

    def __init__(self, of_sequences: torch.Tensor):
        self.value = of_sequences.mean().item()
        self.error = 2 * of_sequences.std().item() / math.sqrt(len(of_sequences))

    def __str__(self):
        return f"{self.value:.4f} (±{self.error:.4f})"


class Judge:
    """Compares models with the float one on the same sequences, [count, tokens]."""

    def __init__(self, model, sequences: torch.Tensor):
        self.sequences, self.head = sequences, model.get_output_embeddings().weight.detach().clone()
        self.states = last_states(model, sequences)

    @torch.no_grad()
    def compare(self, model) -> dict:
        """kl: nats a token; perplexity; agreement: fraction of tokens with the same first choice."""
        states, head = last_states(model, self.sequences), model.get_output_embeddings().weight
        kl, loss, same = [], [], []
        for ours, theirs, tokens in zip(states, self.states, self.sequences):
            sums = torch.zeros(3, dtype=torch.float64)
            for first in range(0, len(tokens) - 1, POSITIONS):
                part = slice(first, min(first + POSITIONS, len(tokens) - 1))
                was = torch.log_softmax(theirs[part] @ self.head.T, -1)
                now = torch.log_softmax(ours[part] @ head.T, -1)
                next_tokens = tokens[part.start + 1:part.stop + 1, None]
                sums += torch.stack([(was.exp() * (was - now)).sum(), -now.gather(1, next_tokens).sum(),
                                     (was.argmax(-1) == now.argmax(-1)).sum()]).double()
            for found, total in zip((kl, loss, same), sums / (len(tokens) - 1)):
                found.append(total)
        return {"kl": Mean(torch.stack(kl)), "perplexity": math.exp(torch.stack(loss).mean().item()),
                "agreement": Mean(torch.stack(same))}
