#!/usr/bin/env python3
"""Whether a linear map brings one tower's vectors to what another's find: ridge regression on training pairs, judged on others.

    linear.py PROGRAM PIPELINE_OF_THE_TOWER PIPELINE_OF_THE_TEACHER DATA --out DIR

Texts of some sets of pairs under DATA (BEIR layout, .xz) are encoded by both towers as notes, each under a root of its own in DIR; a
run that was stopped goes on when this is called again. Then nDCG@10, each query among the documents of its set, of: the tower's vectors as they
are; centred; with the fourth root, and the square root, of their covariance divided out; mapped to the teacher's. Judged are titles and bodies of
stackexchange-mini's notes (the titles are its judged queries, which are to find answers there), scifact's claims for training, and pairs held out of the
regression. Needs numpy and pyarrow.
"""

import argparse
import hashlib
import json
import lzma
import pathlib
import random
import subprocess

import numpy as np
import pyarrow.dataset as dataset

import runs

PAIRS = {
    # How many, and words of a document.
    "se-notes-pairs": (1400, 80),
    "se-answers-pairs": (600, 80),
    "howto-docs-pairs": (350, 80),
    "sci-pairs": (450, 100),
    "qa-passages-pairs": (200, 80),
}
HELD_OUT, MORE_DOCUMENTS = 800, 600


def lines(path):
    with lzma.open(path, "rt") if path.suffix == ".xz" else open(path) as file:
        return list(file)


def rows(path):
    return [json.loads(line) for line in lines(path)]


def answers(path):
    return [line.rstrip("\n").split("\t") for line in lines(path)][1:]


class Texts:
    """Texts by number, each once; pairs of numbers by set."""

    def __init__(self, data):
        self.numbers, self.sets, self.more = {}, {}, []
        choose = random.Random(7)
        for name, (count, words) in PAIRS.items():
            folder = data / name
            documents = {row["_id"]: row for row in rows(folder / "corpus.jsonl.xz")}
            queries = {row["_id"]: row["text"] for row in rows(folder / "queries.jsonl.xz")}
            best = {}
            for query, document, _ in answers(folder / "qrels.tsv.xz"):
                best.setdefault(query, document)
            asked = sorted(best)
            choose.shuffle(asked)
            for query in asked[:count]:
                self.pair("pairs", queries[query], self.document(documents[best[query]], words))
        for row in rows(data / "stackexchange-mini/notes.jsonl"):
            self.pair("titles", row["title"], self.number(row["text"], 80))
        documents = {row["_id"]: row for row in rows(data / "scifact/corpus.jsonl")}
        claims = {row["_id"]: row["text"] for row in rows(data / "scifact/train_queries.jsonl")}
        relevant = [(query, document) for query, document, grade in answers(data / "scifact/train_qrels.tsv") if int(grade) > 0]
        for query, document in relevant:
            self.pair("claims", claims[query], self.document(documents[document], 100))
        others = sorted(set(documents) - {document for _, document in relevant})
        choose.shuffle(others)
        self.more = [self.document(documents[name], 100) for name in others[:MORE_DOCUMENTS]]

    def number(self, text, words):
        return self.numbers.setdefault(" ".join(text.split()[:words]), len(self.numbers))

    def document(self, row, words):
        return self.number(f"{row.get('title') or ''}\n{row['text']}".strip(), words)

    def pair(self, name, query, document):
        self.sets.setdefault(name, []).append((self.number(query, 40), document))


def vectors(program, pipeline, root, notes, texts):
    """A unit vector for each text, in order."""
    corpus = ["corpus.sql=SELECT note_id, body FROM texts", "corpus.template={{ body }}", f"corpus.tables=[{{name = 'texts', uri = '{notes}'}}]"]
    given = [option for value in [*corpus, "corpus.stored_columns=[]", "gates.max_count_drop_percent=100.0", f"publish.root={root}"] for option in ("--set", value)]
    subprocess.run([program, "run", pipeline, "--quiet", *given], check=True, stdout=subprocess.DEVNULL)
    table = dataset.dataset(root / "embeddings", format="parquet", exclude_invalid_files=True).to_table(["text_hash", "embedding"])
    at = {hash: row for row, hash in enumerate(table["text_hash"].to_pylist())}
    stored = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
    return unit(stored[[at[hashlib.sha256(text.encode()).digest()] for text in texts]])


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def ndcg(x, pairs, more):
    """nDCG@10 of the pairs' queries among the pairs' documents and more."""
    documents = sorted({document for _, document in pairs} | set(more))
    place = {document: at for at, document in enumerate(documents)}
    right = {}
    for query, document in pairs:
        right.setdefault(query, set()).add(place[document])
    queries = sorted(right)
    gains = 1 / np.log2(np.arange(10) + 2)
    scores = []
    for query, row in zip(queries, x[queries] @ x[documents].T):
        hits = np.array([at in right[query] for at in np.argsort(-row)[:10]])
        scores.append(gains[hits].sum() / gains[: len(right[query])].sum())
    return float(np.mean(scores))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("program", "tower", "teacher"):
        parser.add_argument(name)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    print(runs.provenance() + "\n", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    texts, notes = Texts(args.data), args.out.resolve() / "texts.jsonl"
    notes.write_text("".join(json.dumps({"note_id": f"t{number}", "body": text}) + "\n" for text, number in texts.numbers.items()))
    out = args.out.resolve()
    x = vectors(args.program, args.tower, out / "tower", notes, texts.numbers)
    y = vectors(args.program, args.teacher, out / "teacher", notes, texts.numbers)
    pairs = texts.sets.pop("pairs")
    random.Random(0).shuffle(pairs)
    texts.sets["held out"], learnt = pairs[:HELD_OUT], sorted({number for pair in pairs[HELD_OUT:] for number in pair})
    mean = x[learnt].mean(0)
    values, directions = np.linalg.eigh(np.cov((x[learnt] - mean).T))
    values = np.maximum(values, 1e-9)
    arms = {"the tower": x, "the teacher": y, "centred": x - mean}
    for power, name in ((0.25, "fourth root divided out"), (0.5, "square root divided out")):
        arms[name] = (x - mean) @ (directions * values**-power)
    gram = (x[learnt] - mean).T @ (x[learnt] - mean)
    for share in (0.01, 0.1, 0.3):
        penalty = share * np.trace(gram) / len(gram) * np.eye(len(gram))
        arms[f"ridge {share}"] = (x - mean) @ np.linalg.solve(gram + penalty, (x[learnt] - mean).T @ y[learnt])
    names = list(texts.sets)
    print("| nDCG@10 | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
    for arm, found in arms.items():
        print(f"| {arm} | " + " | ".join(f"{ndcg(unit(found), texts.sets[name], texts.more if name == 'claims' else ()):.4f}" for name in names) + " |", flush=True)


if __name__ == "__main__":
    main()
