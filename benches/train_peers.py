#!/usr/bin/env python3
"""Speed of stage 1 beside other ways to take the same steps, in one go on one machine.

    train_peers.py RECIPE.toml PROGRAM [PROGRAM ...] [--steps N] [--threads N] [--torch]

Every PROGRAM (a `scalingnote`, an earlier release) takes N steps of the recipe; the first step is warm-up and not counted.
--torch adds PyTorch: a Llama of SmolLM2-135M's shape with random weights and LoRA of the recipe's rank on all projections, under
bf16 autocast, on as many texts of equal length (so that nothing is padded) as make the recipe's tokens a step; the graph is kept,
the loss is InfoNCE. Prints tokens a second, and each row's ratio to the last.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time
import tomllib


def ours(program, recipe, steps, threads):
    with tempfile.TemporaryDirectory() as folder:
        device = f"cpu:{threads}" if threads else "cpu"
        line = [program, "train", recipe, "--out", folder, "--steps", str(steps), "--device", device, "--json"]
        environment = dict(os.environ, **({"RAYON_NUM_THREADS": str(threads)} if threads else {}))
        found = json.loads(subprocess.run(line, check=True, capture_output=True, env=environment).stdout)
    steps = found["steps"][1:]
    return sum(s["tokens"] for s in steps) / sum(s["seconds"] for s in steps), steps[0]


def torch_peer(recipe, step, steps, threads):
    import torch
    from transformers import LlamaConfig, LlamaModel

    if threads:
        torch.set_num_threads(threads)
    method = tomllib.loads(pathlib.Path(recipe).read_text())["method"]
    rank, scale = method["rank"], method["alpha"] / method["rank"]

    class Lora(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a = torch.nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
            self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank))

        def forward(self, x):
            return self.base(x) + scale * torch.nn.functional.linear(torch.nn.functional.linear(x, self.a), self.b)

    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048,
    ))
    model.requires_grad_(False)
    for layer in model.layers:
        for block, names in ((layer.self_attn, "q_proj k_proj v_proj o_proj"), (layer.mlp, "gate_proj up_proj down_proj")):
            for name in names.split():
                setattr(block, name, Lora(getattr(block, name)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=5e-4)
    texts = 2 * step["pairs"]
    length = max(2, round(step["tokens"] / texts))
    ids = torch.randint(0, 49152, (texts, length))
    seconds = 0.0
    for at in range(steps):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model(input_ids=ids).last_hidden_state[:, -1]
        vectors = torch.nn.functional.normalize(states.float(), dim=1)
        scores = vectors[: texts // 2] @ vectors[texts // 2 :].T / 0.05
        torch.nn.functional.cross_entropy(scores, torch.arange(texts // 2)).backward()
        adam.step()
        adam.zero_grad()
        seconds += (time.perf_counter() - start) * (at > 0)
    return texts * length * (steps - 1) / seconds


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipe")
parser.add_argument("programs", nargs="+")
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--torch", action="store_true")
args = parser.parse_args()
rows, step = [], None
for program in args.programs:
    speed, step = ours(program, args.recipe, args.steps, args.threads)
    rows.append((program, speed))
if args.torch:
    rows.append(("PyTorch", torch_peer(args.recipe, step, args.steps, args.threads)))
for name, speed in rows:
    print(f"{name}: {speed:.0f} tokens/s, {speed / rows[-1][1]:.2f} times {rows[-1][0]}", flush=True)
