"""Real texts for benchmarks: the corpora of a folder of retrieval sets in BEIR layout (`*/corpus.jsonl[.xz]`)."""

import json
import lzma
import pathlib

# In this order: prose first, one-line descriptions of commands last.
CORPORA = [("stackexchange-mini", "notes"), ("debian-pairs", "corpus"), ("stackexchange-mini", "corpus"),
           ("medquad-pairs", "corpus"), ("scifact", "corpus"), ("tldr-pairs", "corpus"), ("tldr-pairs", "queries")]
QUERIES = ["scifact", "stackexchange-mini", "medquad-pairs", "debian-pairs"]


def rows(folder, name):
    """The objects of one JSON Lines file, packed or not."""
    plain = folder / f"{name}.jsonl"
    with open(plain) if plain.exists() else lzma.open(f"{plain}.xz", "rt") as lines:
        yield from map(json.loads, lines)


def notes(data, count, corpora=CORPORA):
    """Up to `count` notes of different texts: dicts of `title` and `body`."""
    seen = set()
    for name, file in corpora:
        for row in rows(pathlib.Path(data, name), file):
            note = {"title": row.get("title") or "", "body": row.get("text") or ""}
            text = (note["title"], note["body"])
            if len(seen) == count:
                return
            if any(text) and text not in seen:
                seen.add(text)
                yield note


def queries(data, count):
    """`count` queries, about as many of every set, evenly spread over it."""
    left = count
    for at, name in enumerate(QUERIES):
        texts = list(dict.fromkeys(row["text"] for row in rows(pathlib.Path(data, name), "queries")))
        share = min(left // (len(QUERIES) - at), len(texts))
        left -= share
        for number in range(share):
            yield texts[number * len(texts) // share]


def pieces(data, characters):
    """Every piece of this many characters of every text of all sets that are not in Chinese, as long notes are cut for search."""
    for path in sorted(pathlib.Path(data).glob("*/*.jsonl*")):
        name = path.name.partition(".")[0]
        if "zh" in path.parent.name or name not in ("corpus", "notes", "pairs", "texts"):
            continue
        for row in rows(path.parent, name):
            text = f"{row.get('title') or ''} {row.get('text') or ''}".strip()
            for at in range(0, len(text), characters):
                # The rest of a text may be a word or two.
                if at == 0 or len(text) - at >= characters // 2:
                    yield text[at:at + characters]
