#!/usr/bin/env python3
"""Makes encoders.json: vectors of a tiny random encoder of every family, by sentence-transformers in f32.

    pip install "sentence-transformers>=5" torch numpy
    python3 make_encoders.py > encoders.json

No weights are kept: element i of a tensor is SplitMix64 of its name, which the test computes again. What is kept is each
model's configuration, the names and shapes of its tensors as transformers stores them, one tokenizer of bytes, and mean
pooled vectors, not normalised, of the texts below, whole and cut to 24 tokens.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, __version__
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

TEXTS = [
    ".",
    "a",
    "memory is used after it has been released",
    "  spaces at both ends, tabs\tand\nlines  ",
    "今天天气很好，我们去公园散步吧。",
    "emoji 😀👩‍👩‍👧 in the middle",
    "שלום עולם مرحبا بالعالم",
    "more than a window holds, " * 11,
]
SHORT = 24
LONGEST = 384
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
SIZES = {
    "vocab_size": 260, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 2,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}


def mixed(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def weights(name, shape):
    """Uniform numbers; norms around 1, matrices of a width that keeps the size of what they multiply."""
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        state = np.uint64(0)
        for byte in name.encode():
            state = mixed((state ^ np.uint64(byte)) + step)
        count = int(np.prod(shape))
        bits = mixed(state + step * np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(40)
    unit = bits.astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)
    if len(shape) == 1:
        values = np.float32(1 if name.endswith("weight") else 0) + unit * np.float32(0.4)
    elif "embeddings" in name:
        values = unit * np.float32(2)
    else:
        values = unit * np.float32(5 / np.sqrt(shape[1]))
    return torch.from_numpy(values.astype(np.float32).reshape(shape).copy())


def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate(SPECIAL + letters)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


def families():
    """Name, transformers' configuration, the configuration that is kept, what is done to the loaded model, a prefix of names."""

    def same(config, **more):
        return config, {**config.to_dict(), **more}

    rows = {"max_position_embeddings": LONGEST + 2}
    full = {"max_position_embeddings": LONGEST}
    yield "bert", *same(transformers.BertConfig(**SIZES, **full)), None, ""
    yield "bert, gelu_new", *same(transformers.BertConfig(**SIZES, **full, hidden_act="gelu_new")), None, "bert."
    yield "roberta", *same(transformers.RobertaConfig(**SIZES, **rows, type_vocab_size=1)), None, "roberta."
    yield "xlm-roberta", *same(transformers.XLMRobertaConfig(**SIZES, **rows, type_vocab_size=1)), None, ""
    yield "camembert", *same(transformers.CamembertConfig(**SIZES, **rows, type_vocab_size=1)), None, ""
    small = transformers.DistilBertConfig(
        vocab_size=260, dim=40, hidden_dim=56, n_layers=3, n_heads=2, pad_token_id=1, **full
    )
    yield "distilbert", *same(small), None, ""
    yield "mpnet", *same(transformers.MPNetConfig(**SIZES, **rows)), None, ""
    local = {**SIZES, **full, "local_attention": 12, "num_hidden_layers": 4, "cls_token_id": 0, "sep_token_id": 2}
    modern = transformers.ModernBertConfig(**local)
    yield "modernbert", *same(modern), None, ""
    # As the files of its authors say it.
    older = {**local, "model_type": "modernbert", "global_attn_every_n_layers": 2, "global_rope_theta": 160000.0}
    older = {**older, "local_rope_theta": 10000.0, "norm_bias": True, "attention_bias": True}
    yield "modernbert, older", transformers.ModernBertConfig(**older), older, None, "model."
    nomic = transformers.NomicBertConfig(**SIZES, **full)
    yield "nomic_bert", *same(nomic), None, ""
    authors = {
        "model_type": "nomic_bert", "n_embd": 40, "n_head": 2, "n_inner": 56, "n_layer": 3, "n_positions": 8192,
        "rotary_scaling_factor": 2, "max_trained_positions": LONGEST, "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-12, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
        "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "prenorm": False,
        "rotary_emb_scale_base": None, "use_rms_norm": False, "causal": False, "type_vocab_size": 2,
        "vocab_size": 257, "pad_vocab_size_multiple": 4, "pad_token_id": 1,
        "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    }
    yield "nomic_bert, authors", nomic, authors, None, ""
    gte = transformers.GteConfig(**SIZES, **full, type_vocab_size=1)
    yield "gte", *same(gte), None, ""
    scaled = {
        **SIZES, **full, "model_type": "new", "type_vocab_size": 1, "position_embedding_type": "rope",
        "rope_theta": 20000.0, "rope_scaling": {"type": "ntk", "factor": 8.0}, "layer_norm_type": "layer_norm",
        "layer_norm_eps": 1e-12, "hidden_act": "gelu", "pack_qkv": True, "logn_attention_scale": False,
        "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
    }
    yield "new", gte, scaled, ntk(20000.0, 8.0), "new."


def ntk(theta, factor):
    """The frequencies as Alibaba-NLP/new-impl computes them, which transformers does not."""

    def apply(model):
        width = SIZES["hidden_size"] // SIZES["num_attention_heads"]
        pairs = torch.arange(0, width, 2).float() / width
        model.rotary_emb.inv_freq = 1.0 / ((theta * factor) ** pairs) / factor ** (2 / width)

    return apply


def vectors(model, longest):
    model.max_seq_length = longest
    rows = [model.encode([text], convert_to_numpy=True)[0] for text in TEXTS]
    return [[float(f"{x:.7g}") for x in row.tolist()] for row in rows]


def main():
    made = tokenizer()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    cases = []
    for name, config, kept, change, prefix in families():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            transformers.AutoModel.from_config(config).save_pretrained(folder)
            wrapped.save_pretrained(folder)
            path = folder / "model.safetensors"
            stored = {prefix + key: list(value.shape) for key, value in load_file(path).items()}
            stored = {key: shape for key, shape in sorted(stored.items()) if "pooler" not in key}
            written = {key: weights(key, shape) for key, shape in stored.items()}
            save_file({key.removeprefix(prefix): value for key, value in written.items()}, path, {"format": "pt"})
            first = Transformer(str(folder))
            if change:
                change(first.auto_model)
            model = SentenceTransformer(modules=[first, Pooling(config.hidden_size, "mean")], device="cpu")
            whole, short = vectors(model, LONGEST), vectors(model, SHORT)
        kept = {key: value for key, value in kept.items() if key not in ("id2label", "label2id", "transformers_version")}
        cases.append({"name": name, "config": kept, "tensors": list(stored.items()), "whole": whole, "short": short})
        print(name, *whole[2][:4], file=sys.stderr)
    versions = {"transformers": transformers.__version__, "sentence-transformers": __version__}
    lines = ",\n".join(json.dumps(case, separators=(",", ":"), ensure_ascii=False) for case in cases)
    head = {"versions": versions, "longest": LONGEST, "short": SHORT, "texts": TEXTS, "tokenizer": json.loads(made.to_str())}
    print(json.dumps(head, separators=(",", ":"), ensure_ascii=False)[:-1] + ',\n"cases":[\n' + lines + "\n]}")


if __name__ == "__main__":
    main()
