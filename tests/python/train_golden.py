"""Writes tests/it/golden/train.json: vectors of a tiny Llama, every term of the loss and its gradients, in PyTorch.

Weights, adapters and texts are those of src/train/tests_support.rs and src/train/contrast/tests.rs.
pip install torch transformers numpy; python tests/python/train_golden.py
"""

import json
import pathlib

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

RANK, ALPHA = 4, 8.0
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
embeddings = torch.cat([queries, documents])
ROWS, TEMPERATURES, WEIGHTS = 4, torch.tensor([0.1, 0.2, 0.1, 0.3]), torch.tensor([1.0, 2.0, 1.0, 0.5])
teacher = torch.from_numpy(hashed("teacher", 9 * 6).reshape(9, 6)).double()
teacher[4:8] += teacher[:4]
teacher = teacher / teacher.norm(dim=1, keepdim=True)
known = torch.zeros(4, 5, dtype=torch.bool)
known[1, 0] = True


def divergence(taught, own, temperature):
    taught, own = torch.log_softmax(taught / temperature, 1), torch.log_softmax(own / temperature, 1)
    return torch.nn.functional.kl_div(own, taught, reduction="none", log_target=True).sum(1)


def whole(vectors, o):
    scores, taught = vectors[:ROWS] @ vectors[ROWS:].T, teacher[:ROWS] @ teacher[ROWS:].T
    answers = known.clone()
    if "guide_margin" in o:
        answers |= taught > taught.diagonal()[:, None] - o["guide_margin"]
    answers[torch.arange(4), torch.arange(4)] = False
    assert 0 < answers.sum() < 12, answers
    own = torch.arange(4)
    logits = (scores / TEMPERATURES[:, None]).masked_fill(answers, -torch.inf)
    contrast = (torch.nn.functional.cross_entropy(logits, own, reduction="none") * WEIGHTS).mean()
    if o.get("both_directions"):
        logits = (scores.T[:4] / TEMPERATURES[:, None]).masked_fill(answers.T[:4], -torch.inf)
        other = (torch.nn.functional.cross_entropy(logits, own, reduction="none") * WEIGHTS).mean()
        contrast = (contrast + other) / 2
    loss = o.get("contrast_weight", 1.0) * contrast
    loss = loss + o.get("score_weight", 0.0) * (
        divergence(taught, scores, o.get("score_temperature", 0.05)) * WEIGHTS
    ).mean()
    others = ~torch.eye(9, dtype=torch.bool)
    among = lambda all: (all @ all.T)[others].reshape(9, 8)
    return loss + o.get("gram_weight", 0.0) * divergence(
        among(teacher), among(vectors), o.get("gram_temperature", 0.05)
    ).mean()


def objective(vectors, o):
    cuts = [torch.nn.functional.normalize(vectors[:, :cut], dim=1) for cut in o.get("matryoshka", [])]
    return torch.stack([whole(one, o) for one in [vectors, *cuts]]).mean()


cases = {
    "contrast": {},
    "both_directions": {"both_directions": True},
    "guided": {"both_directions": True, "guide_margin": 0.3},
    "scores": {"contrast_weight": 0.0, "score_weight": 1.5, "score_temperature": 0.2},
    "gram": {"contrast_weight": 0.0, "gram_weight": 2.0, "gram_temperature": 0.3},
    "all": {
        "contrast_weight": 0.5, "both_directions": True, "guide_margin": 0.3, "score_weight": 1.0,
        "score_temperature": 0.1, "gram_weight": 1.0, "gram_temperature": 0.1, "matryoshka": [8, 16],
    },
}
short = lambda t: [float(f"{v:.7g}") for v in t.detach().flatten().tolist()]
found = {}
for name, options in cases.items():
    # As the test reads them.
    vectors = torch.tensor([short(row) for row in embeddings], requires_grad=True)
    loss = objective(vectors, options)
    loss.backward()
    found[name] = {"options": options, "loss": loss.item(), "vectors": short(vectors.grad)}
objective(embeddings, cases["all"]).backward()
golden = {
    "embeddings": [short(row) for row in embeddings],
    "temperatures": TEMPERATURES.tolist(),
    "cases": found,
    "grads": {
        f"{name}.{which}.weight": short(parameter.grad)
        for name, lora in loras.items()
        for which, parameter in (("lora_A", lora.a), ("lora_B", lora.b))
    },
}
target = pathlib.Path(__file__).parents[1] / "it" / "golden" / "train.json"
target.write_text(json.dumps(golden, separators=(",", ":")))
print(target.stat().st_size, "bytes,", {name: case["loss"] for name, case in found.items()})
