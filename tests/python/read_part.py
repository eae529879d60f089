"""Opens what this project writes with nothing but public readers.

usage: read_part.py PART_F32 PART_F16 INDEX SIDECAR QUERY_JSON
"""

import json
import sys

import duckdb
import numpy as np
import pyarrow.parquet as pq
from usearch.index import Index


def check_part(path: str, first: int, element: str) -> None:
    table = pq.read_table(path)
    assert table.column_names == ["text_hash", "note_id", "embedding", "token_count", "truncated"]
    assert str(table.schema.field("embedding").type.value_type) == element, table.schema
    assert table.num_rows == 500 and table.column("embedding").null_count == 0
    matrix = np.stack(table.column("embedding").to_numpy(zero_copy_only=False)).astype(np.float32)
    assert matrix.shape == (500, 48)
    assert (matrix[:, 0] == np.arange(first, first + 500)).all()
    assert table.column("note_id")[0].as_py() == f"i:{first}"
    assert len(table.column("text_hash")[0].as_py()) == 32
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    space = json.loads(metadata["scalingnote.embedding_space"])
    assert space["pooling"] == metadata["scalingnote.pooling"] == "last-token"
    assert metadata["scalingnote.normalisation"] == "l2"
    assert json.loads(metadata["scalingnote.provenance"]) == {"release": "test"}

    row = duckdb.execute(
        f"select count(*), sum(embedding[1]), max(note_id), sum(token_count), count(*) filter (truncated)"
        f" from read_parquet('{path}')"
    ).fetchone()
    assert row[0] == 500 and row[1] == sum(range(first, first + 500)), row


def check_index(index_path: str, sidecar_path: str, query_path: str) -> None:
    with open(query_path) as file:
        query = json.load(file)
    index = Index.restore(index_path, view=True)
    assert len(index) == 500 and index.ndim == 48, index
    vector = np.array(query["vector"], dtype=np.float32)
    vector /= np.linalg.norm(vector)
    # The i8 form of a query: the reader's half of the calibration.
    scale = max(query["scale"], 127 / np.abs(vector).max())
    code = np.clip(np.rint(vector * scale), -127, 127).astype(np.int8)
    matches = index.search(code, 10)
    assert int(matches.keys[0]) == query["key"], matches.keys
    assert abs(float(matches.distances[0])) < 1e-3

    raw = np.memmap(sidecar_path, dtype=np.uint8, mode="r")
    assert bytes(raw[:8]) == b"SNF16\0\0\0"
    version, dimensions = raw[8:16].view("<u4")
    (count,) = raw[16:24].view("<u8")
    assert (version, dimensions, count) == (1, 48, 500)
    keys = raw[64 : 64 + 8 * int(count)].view("<u8")
    start = (64 + 8 * int(count) + 63) // 64 * 64
    rows = raw[start:].view("<f2").reshape(int(count), int(dimensions))
    exact = rows.astype(np.float32) @ vector
    assert keys[exact.argmax()] == query["key"]


if __name__ == "__main__":
    part_f32, part_f16, index, sidecar, query = sys.argv[1:]
    check_part(part_f32, 0, "float")
    check_part(part_f16, 1000, "halffloat")
    check_index(index, sidecar, query)
    print("pyarrow, duckdb and usearch read everything")
