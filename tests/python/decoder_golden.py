"""Writes tests/golden/decoders.json: states of tiny decoders of every family, causal and bidirectional, by transformers.

    pip install torch transformers numpy; python tests/python/decoder_golden.py

Weights are drawn by SplitMix64 from a seed that is the FNV-1a hash of the tensor's name, as tests/it/tower/families.rs does
it; a text's tokens are its bytes. So the file holds configurations and vectors only.
"""

import json
import pathlib

import numpy as np
import torch
import transformers
from transformers import AutoModel, CONFIG_MAPPING

LONG = "Windows slide over long texts; what lies far behind is seen by full layers only. "
# Text, and the most tokens that are kept of it.
TEXTS = [
    (" ", 512),
    ("a", 512),
    ("memory is used after it has been released", 512),
    (LONG * 5, 512),
    (LONG * 5, 100),
    ("今天天气很好，我们去公园散步吧。明天也许会下雨，那就在家看书。", 512),
    ("emoji 😀👩‍👩‍👧 in the middle 🎉", 512),
    ("שלום עולם مرحبا بالعالم، كيف حالك اليوم", 512),
]
BASE = dict(
    vocab_size=258, hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=None, eos_token_id=1,
)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
LONGROPE = dict(
    rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.7, 2.0, 3.0], long_factor=[9.0] * 6, factor=4.0,
)
FAMILIES = {
    "llama": ("llama", dict(head_dim=12, rope_scaling=LLAMA3, rms_norm_eps=1e-5)),
    "mistral": ("mistral", dict(head_dim=16, sliding_window=40)),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=70, max_window_layers=1, rope_theta=1e6)),
    "qwen3": ("qwen3", dict(head_dim=20, rope_theta=1e6)),
    "phi3": (
        "phi3",
        dict(rope_scaling=LONGROPE, original_max_position_embeddings=512, max_position_embeddings=2048, sliding_window=None),
    ),
    "gemma3": (
        "gemma3_text",
        dict(
            head_dim=16, query_pre_attn_scalar=24, sliding_window=24, layer_types=KINDS, rope_theta=1e6,
            rope_local_base_freq=1e4, rope_scaling=dict(rope_type="linear", factor=8.0),
        ),
    ),
}


def splitmix(name, count):
    """`count` numbers in [-0.5, 0.5), multiples of 2^-24."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(0.5)


def weight(name, shape, gemma):
    values = splitmix(name, int(np.prod(shape))).reshape(shape)
    if name.endswith("norm.weight"):
        return values if gemma else np.float32(1) + values
    return values * np.float32(2 if "embed" in name else 1 if name.endswith("bias") else 0.5)


def cases():
    for name, (kind, own) in FAMILIES.items():
        for causal in (True, False):
            fields = {**BASE, **own}
            if not causal:
                fields.update(dict(use_bidirectional_attention=True) if kind == "gemma3_text" else dict(is_causal=False))
            config = CONFIG_MAPPING[kind](**fields, attn_implementation="eager")
            model = AutoModel.from_config(config).eval()
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    full = f"model.{parameter_name}"
                    parameter.copy_(torch.from_numpy(weight(full, tuple(parameter.shape), kind == "gemma3_text")))
            short = lambda t: [float(f"{v:.7g}") for v in t.tolist()]
            vectors = []
            for text, most in TEXTS:
                ids = [byte + 2 for byte in text.encode()][:most]
                with torch.no_grad():
                    states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
                vectors.append({"mean": short(states.mean(0)), "last": short(states[-1])})
            yield {"name": name, "causal": causal, "config": {"model_type": kind, **fields}, "vectors": vectors}


if __name__ == "__main__":
    found = list(cases())
    golden = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "texts": [{"text": text, "most": most} for text, most in TEXTS],
        "cases": found,
    }
    target = pathlib.Path(__file__).parents[1] / "golden" / "decoders.json"
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in golden.pop("cases"))
    head = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    target.write_text(f'{head[:-1]},"cases":[\n{lines}\n]}}\n')
    print(target.stat().st_size, "bytes,", len(found), "cases")
