"""Writes tests/it/golden/train.json: loss, query vectors and LoRA gradients of a tiny Llama in PyTorch.

Weights, adapters and texts are those of src/train/tests_support.rs and src/train/contrast/tests.rs.
pip install torch transformers numpy; python tests/python/train_golden.py
"""

import json
import pathlib

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

RANK, ALPHA, TEMPERATURE = 4, 8.0, 0.1
torch.set_default_dtype(torch.float64)


def hashed(name, count):
    start = np.uint32(0x811C9DC5)
    with np.errstate(over="ignore"):
        for byte in name.encode():
            start = (start ^ np.uint32(byte)) * np.uint32(16777619)
        x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + start
        for factor in (0x85EBCA6B, 0xC2B2AE35):
            x = (x ^ (x >> np.uint32(15))) * np.uint32(factor)
        x ^= x >> np.uint32(16)
    return (x.astype(np.float64) / 2.0**31 - 1.0).astype(np.float32)


def weight(name, shape):
    offset, scale = (1.0, 0.25) if "norm" in name else (0.0, 1.0) if "embed" in name else (0.0, 0.25)
    data = np.float32(offset) + np.float32(scale) * hashed(name, int(np.prod(shape)))
    return torch.from_numpy(data.reshape(shape)).double()


class Lora(torch.nn.Module):
    def __init__(self, base, name):
        super().__init__()
        self.base = base
        part = lambda which, shape: torch.nn.Parameter(
            torch.from_numpy((np.float32(0.3) * hashed(f"{name}.{which}.weight", int(np.prod(shape)))).reshape(shape)).double()
        )
        self.a = part("lora_A", (RANK, base.in_features))
        self.b = part("lora_B", (base.out_features, RANK))

    def forward(self, x):
        return self.base(x) + ALPHA / RANK * (x @ self.a.T) @ self.b.T


config = LlamaConfig(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=128,
    attn_implementation="eager",
)
model = LlamaModel(config).double().eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        parameter.copy_(weight(f"model.{name}", tuple(parameter.shape)))
        parameter.requires_grad_(False)
loras = {}
for at, layer in enumerate(model.layers):
    for block, names in ((layer.self_attn, "q_proj k_proj v_proj o_proj"), (layer.mlp, "gate_proj up_proj down_proj")):
        where = "self_attn" if block is layer.self_attn else "mlp"
        for name in names.split():
            full = f"base_model.model.model.layers.{at}.{where}.{name}"
            loras[full] = Lora(getattr(block, name), full)
            setattr(block, name, loras[full])


def embed(first, text):
    ids = [first] + [b % 97 for b in text.encode()]
    states = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return states / states.norm()


queries = torch.stack([embed(1, t) for t in ["beer", "hops and malt", "x", "coffee beans"]])
documents = torch.stack(
    [embed(2, t) for t in ["a pint of ale", "malted barley", "y", "roasted arabica from far away", "tea"]]
)
logits = queries @ documents.T / TEMPERATURE
mask = torch.zeros_like(logits)
mask[1, 0] = -torch.inf
weights = torch.tensor([1.0, 2.0, 1.0, 0.5])
losses = torch.nn.functional.cross_entropy(logits + mask, torch.arange(4), reduction="none")
loss = (losses * weights).sum() / weights.sum()
loss.backward()
short = lambda t: [float(f"{v:.7g}") for v in t.detach().flatten().tolist()]
golden = {
    "loss": loss.item(),
    "embeddings": [short(row) for row in queries],
    "grads": {
        f"{name}.{which}.weight": short(parameter.grad)
        for name, lora in loras.items()
        for which, parameter in (("lora_A", lora.a), ("lora_B", lora.b))
    },
}
target = pathlib.Path(__file__).parents[1] / "it" / "golden" / "train.json"
target.write_text(json.dumps(golden, separators=(",", ":")))
print(target.stat().st_size, "bytes, loss", loss.item())
