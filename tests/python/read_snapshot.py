"""Reads every file that the newest snapshot names with pyarrow and DuckDB and checks that they agree.

    python read_snapshot.py ROOT f32|f16
"""

import hashlib
import json
import pathlib
import struct
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

root, vector_type = pathlib.Path(sys.argv[1]), sys.argv[2]
content = json.loads(max((root / "snapshots").glob("*.json")).read_text())["content"]
dimensions = content["space"]["dimensions"]


def check(reference):
    """The file, once its size and SHA-256 are those of the manifest."""
    path = root / reference["path"]
    data = path.read_bytes()
    assert len(data) == reference["size"], path
    assert hashlib.sha256(data).hexdigest() == reference["sha256"], path
    return path


vectors = {}  # part path, row -> vector
hashes = {}
for part in content["parts"]:
    path = check(part)
    table = pq.read_table(path)
    kind = table.schema.field("embedding").type
    assert pa.types.is_fixed_size_list(kind) and kind.list_size == dimensions, kind
    assert kind.value_type == {"f32": pa.float32(), "f16": pa.float16()}[vector_type], kind
    metadata = {key.decode() for key in pq.read_schema(path).metadata or {}}
    metadata |= {key.decode() for key in pq.ParquetFile(path).metadata.metadata or {}}
    assert any("space" in key for key in metadata), f"no embedding space in {sorted(metadata)}"
    for name in ("text_hash", "note_id", "token_count", "truncated"):
        assert table[name].null_count == 0, name
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows = flat.astype(np.float32).reshape(-1, dimensions)
    assert np.isfinite(rows).all()
    if content["space"]["normalize"]:
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 2e-3
    for row, (vector, text_hash) in enumerate(zip(rows, table["text_hash"].to_pylist())):
        vectors[part["path"], row] = vector
        hashes[part["path"], row] = text_hash
    # DuckDB reads the same rows, vectors included.
    tokens, count, longest = duckdb.execute(
        "SELECT sum(token_count), count(*), max(len(embedding)) FROM read_parquet(?)", [str(path)]
    ).fetchone()
    assert (tokens, count, longest) == (sum(table["token_count"].to_pylist()), len(table), dimensions)

notes = total = 0
for shard in content["shards"]:
    ids = pq.read_table(check(shard["ids"]))
    keys = ids["key"].to_numpy()
    assert (keys[1:] > keys[:-1]).all(), "keys must ascend"
    assert len(ids) == shard["vectors"]
    for name in content["stored_columns"]:
        assert name in ids.column_names, name
    notes += len(set(ids["note_id"].to_pylist()))
    total += len(ids)
    if not shard["index"]:
        assert len(ids) == 0
        continue
    check(shard["index"])
    sidecar = check(shard["sidecar"])
    magic, version, dims, count = struct.unpack("<5s3xIIQ", sidecar.read_bytes()[:24])
    assert (magic, dims, count) == (b"SNF16", dimensions, len(ids)), (magic, version, dims, count)
    start = -(-(64 + 8 * count) // 64) * 64
    stored = np.memmap(sidecar, "<u8", "r", 64, (count,))
    halves = np.memmap(sidecar, "<f2", "r", start, (count, dims))
    assert (stored == keys).all()
    # Every id leads to its vector: the part and the row hold what the sidecar rounds.
    for at, (part, row, text_hash) in enumerate(
        zip(ids["part"].to_pylist(), ids["row"].to_pylist(), ids["text_hash"].to_pylist())
    ):
        assert hashes[part, row] == text_hash
        assert np.abs(vectors[part, row] - halves[at].astype(np.float32)).max() < 1e-3
assert (notes, total) == (content["notes"], content["vectors"])
print(f"{notes} notes, {total} vectors of {dimensions} dimensions")
