"""What a model's files decide beside its layers, compared with sentence-transformers; and the way out of files that are refused.

    model_files.py PROGRAM FOLDER

MiniLM's real weights (parity.py) with texts truncated on the left, with special tokens in texts taken as control tokens, and, where
the package `gguf` is there, out of a GGUF file. Then its weights are stored as a pickle, and its tokenizer as a vocabulary alone:
the commands that PROGRAM names must make of them what it reads, with the same vector. Exit code 1 where a cosine is too small or a
command does not help.
"""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize

from parity import LEAST, TEXTS, cosine, ours, save
from weights import minilm

try:
    import gguf
except ImportError:
    gguf = None

SPECIAL = ["[CLS] written in [SEP] a text", "a [MASK]", "[PAD]"]
PIPELINE = """version = 2
[corpus]
sql = "select id as note_id, body from notes"
template = "{{ body }}"
[[corpus.tables]]
name = "notes"
uri = "notes.jsonl"
[publish]
root = "root"
[tower]
"""


def encoded(program, folder, model, keys, texts, side=()):
    pipeline = folder / "files.toml"
    pipeline.write_text(f'{PIPELINE}model = "{model}"\n{keys}\n')
    return [ours(program, pipeline, list(side), text) for text in texts]


def least(name, found, expected, bound=LEAST["f32"]):
    near = min(map(cosine, found, expected))
    print(f"| {name} | {near:.7f} |", flush=True)
    return near < bound


def left(program, folder):
    prompts = {"query": "query: ", "document": "passage: "}
    model = save(folder, "left", minilm(folder), "mean", [Normalize()], prompts, 32)
    told = model / "tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"truncation_side": "left"}))
    reference = SentenceTransformer(str(model), device="cpu")
    notes, queries = reference.encode_document(TEXTS), reference.encode_query(TEXTS)
    failed = least("truncated on the left, notes", encoded(program, folder, model, "", TEXTS), notes)
    return failed | least(
        "truncated on the left, queries", encoded(program, folder, model, "", TEXTS, ["--query"]), queries
    )


def special(program, folder):
    model = minilm(folder)
    expected = SentenceTransformer(str(model), device="cpu").encode(SPECIAL)
    found = encoded(program, folder, model, 'special_tokens = "control"', SPECIAL)
    failed = least("special tokens as control tokens", found, expected)
    # By default they are text, which is something else.
    return failed | (min(map(cosine, encoded(program, folder, model, "", SPECIAL), expected)) > 0.99)


def write_gguf(path, model, kind):
    """MiniLM as llama.cpp's converter writes it, by the names of its own Python package."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.BERT])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    begun = [
        token if at in special else token[2:] if token.startswith("##") else "\u2581" + token for at, token in enumerate(tokens)
    ]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(begun)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if at in special else normal for at in range(len(tokens))])
    gguf.SpecialVocab(model, n_vocab=len(tokens)).add_to_gguf(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in load_file(model / "model.safetensors").items():
        if "pooler" in name or "position_ids" in name:
            continue
        stem, part = name.rsplit(".", 1)
        values = tensor.float().numpy()
        own = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else kind
        writer.add_tensor(f"{names.get_name(stem)}.{part}", gguf.quants.quantize(values, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def out_of_gguf(program, folder):
    if gguf is None:
        print("skipped: MiniLM out of GGUF, for want of the Python package gguf", file=sys.stderr)
        return False
    real, failed = minilm(folder), False
    reference = SentenceTransformer(str(real), device="cpu")
    expected, longest = reference.encode(TEXTS), f"max_tokens = {reference.max_seq_length}"
    for kind, bound in (("F32", LEAST["f32"]), ("F16", LEAST["f32"]), ("Q8_0", 0.999)):
        path = folder / f"minilm-{kind}.gguf"
        write_gguf(path, real, gguf.GGMLQuantizationType[kind])
        failed |= least(f"MiniLM out of GGUF, {kind}", encoded(program, folder, path, longest, TEXTS), expected, bound)
    return failed


def converted(program, folder):
    real, failed = minilm(folder), False
    mean = 'pooling = "mean"'
    expected = encoded(program, folder, real, mean, TEXTS[1:2])
    for name, lacks in (("pickle", "model.safetensors"), ("bare", "model.safetensors"), ("vocabulary", "tokenizer.json")):
        broken, new = folder / name, folder / f"{name}-safetensors"
        for old in (broken, new):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(real, broken)
        if lacks == "model.safetensors":
            torch.save(load_file(broken / lacks), broken / "pytorch_model.bin")
        (broken / lacks).unlink()
        if name == "bare":
            (broken / "modules.json").unlink()
        said = subprocess.run([program, "tower", str(broken), "--no-trial"], capture_output=True, text=True)
        command = re.search(r"`(python3 -c .*?)`", said.stderr, re.DOTALL)
        if said.returncode != 1 or not command:
            raise SystemExit(f"{name}: {said}")
        subprocess.run([sys.executable, *shlex.split(command.group(1))[1:]], check=True, capture_output=True)
        whole = broken if lacks == "tokenizer.json" else new
        failed |= least(f"{name}, converted as the message says", encoded(program, folder, whole, mean, TEXTS[1:2]), expected)
    return failed


def main(program, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.jsonl").write_text('{"id": 1, "body": "x"}\n')
    print("| | least cosine |\n|---|--:|")
    failed = [check(program, folder) for check in (left, special, out_of_gguf, converted)]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], pathlib.Path(sys.argv[2]).resolve()))
