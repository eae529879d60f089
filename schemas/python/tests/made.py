"""Makes small roots, as `scalingnote` writes them, without it."""

import hashlib
import json
import pathlib
import struct
import tempfile
import unittest

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from usearch.index import Index

from scalingnote_reader._manifest import Options, Signs
from scalingnote_reader._quantize import probe

DIMENSIONS = 32
SCALE = 240.0


def vectors(count, seed=1):
    random = np.random.default_rng(seed)
    # Clustered, so that neighbours are near and an index has something to find.
    centres = random.normal(size=(16, DIMENSIONS))
    rows = centres[random.integers(0, 16, count)] + 0.7 * random.normal(size=(count, DIMENSIONS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def key_of(tagged, chunk=0):
    text = tagged + (f"\0#{chunk}" if chunk else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Made:
    """A root that grows by one snapshot at a time."""

    def __init__(self, folder, quantization="i8", rescore=8):
        self.folder = pathlib.Path(folder)
        signs = None
        if quantization == "b1r":
            mean = np.rint(vectors(400).mean(axis=0) * 32768).astype(int)
            signs = Signs(22, tuple(mean.tolist()), 0.2)
        self.options = Options(quantization, 64, rescore, SCALE, signs)
        self.number = 0

    def segment(self, rows, *, removed=(), stored=None, canaries=None):
        """Stores one segment of (tagged note id, chunk, vector) and returns its entry in the manifest."""
        rows = sorted(rows, key=lambda row: key_of(row[0], row[1]))
        keys = np.array([key_of(note, chunk) for note, chunk, _ in rows], np.uint64)
        matrix = np.stack([vector for _, _, vector in rows])
        kind = self.options.quantization
        metric = {"i8": "cos", "b1": "hamming", "b1r": "hamming"}.get(kind, "ip")
        dtype = "b1" if kind == "b1r" else kind
        index = Index(ndim=DIMENSIONS, metric=metric, dtype=dtype, connectivity=16, expansion_add=128)
        index.add(keys, np.stack([probe(row, self.options) for row in matrix]), threads=1)
        start = -(-(64 + keys.nbytes) // 64) * 64
        header = struct.pack("<5s3xIIQ", b"SNF16", 1, DIMENSIONS, len(keys)).ljust(64, b"\0")
        sidecar = (header + keys.astype("<u8").tobytes()).ljust(start, b"\0") + matrix.astype("<f2").tobytes()
        columns = {
            "key": pa.array(keys, pa.uint64()),
            "note_id": pa.array([note for note, _, _ in rows]),
            "chunk": pa.array([chunk for _, chunk, _ in rows], pa.uint32()),
            "text_hash": pa.array([b"\0" * 32] * len(rows), pa.binary(32)),
            "part": pa.array([""] * len(rows)),
            "row": pa.array(range(len(rows)), pa.uint32()),
        }
        for name, value in (stored or {}).items():
            columns[name] = pa.array([value(note) for note, _, _ in rows])
        entry = {
            "vectors": len(rows),
            "index": self.put("usearch", bytes(index.save())),
            "sidecar": self.put("f16", sidecar),
            "ids": self.put("ids.parquet", self.parquet(columns)),
            "canaries": canaries if canaries is not None else self.canaries(keys, matrix),
        }
        if removed:
            gone = pa.array(sorted(key_of(note, chunk) for note, chunk in removed), pa.uint64())
            file = self.put("removed.parquet", self.parquet({"key": gone}))
            entry["removed"] = {"vectors": len(removed), "file": file}
        return entry

    def canaries(self, keys, matrix):
        halves = matrix.astype(np.float16).astype(np.float32)
        query = halves[0] / np.linalg.norm(halves[0])
        scores = halves @ query
        best = np.argsort(-scores)[: min(5, len(keys))]
        hits = [{"key": f"{int(keys[row]):016x}", "score": round(float(scores[row]), 4)} for row in best]
        exact = self.options.rescore and self.options.quantization not in ("b1", "b1r")
        return [{"key": f"{int(keys[0]):016x}", "hits": hits}] if exact else []

    def publish(self, shards, *, notes, change=lambda document: None):
        """Publishes a snapshot of these shards, each a list of segments; returns its number."""
        self.number += 1
        gone = [sum(s.get("removed", {"vectors": 0})["vectors"] for s in shard) for shard in shards]
        counts = [sum(s["vectors"] for s in shard) - minus for shard, minus in zip(shards, gone, strict=True)]
        entries = []
        for at, (segments, count) in enumerate(zip(shards, counts, strict=True)):
            entry = {
                "shard": at,
                "notes": notes if len(shards) == 1 else count,
                "vectors": count,
                "orphans": 0,
            }
            entry |= {"source": None, "parts": []}
            if segments:
                base = dict(segments[0])
                del base["vectors"]
                entry |= base
                entry |= {"deltas": segments[1:]} if segments[1:] else {}
            else:
                entry |= {"index": None, "sidecar": None, "ids": self.put("ids.parquet", b"none")}
            entries.append(entry)
        options = {"quantization": self.options.quantization, "connectivity": 16, "expansion_add": 128}
        options |= {"expansion_search": 64, "rescore": self.options.rescore}
        calibration = {"scale": SCALE, "sample": 100, "clipped": 0.00125}
        if signs := self.options.signs:
            calibration["signs"] = {
                "seed": signs.seed,
                "mean": list(signs.mean),
                "query_share": 0.5,
                "gain": signs.gain,
            }
        content = {
            "space_id": "0" * 16,
            "space": {"dimensions": DIMENSIONS, "prompt_prefix": 'Frage: „é\u0007"\\'},
            "notes": notes,
            "vectors": sum(counts),
            "shard_count": len(shards),
            "index": {"options_id": "1" * 16, "options": options, "calibration": calibration},
            "shards": entries,
            "parts": [],
            "stored_columns": [],
            "query_towers": [],
        }
        document = {"version": 1, "number": self.number, "content": content}
        change(document)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        document.setdefault("content_hash", hashlib.sha256(text.encode()).hexdigest())
        path = self.folder / f"snapshots/{self.number:020}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        return self.number

    def put(self, kind, data):
        digest = hashlib.sha256(data).hexdigest()
        key = f"indexes/1111111111111111/00000/{digest[:16]}.{kind}"
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"path": key, "size": len(data), "sha256": digest}

    @staticmethod
    def parquet(columns):
        out = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), out)
        return out.getvalue().to_pybytes()


def files(folder):
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())


class Case(unittest.TestCase):
    """A test with a folder, and a root in it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.made = Made(self.folder / "root")
        self.cache = self.folder / "cache"

    def publish(self, count=50, seed=1, **options):
        segment = self.made.segment(numbered(count, seed), removed=[("i:0", 0)])
        return self.made.publish([[segment]], notes=count - 1, **options)


def numbered(count, seed=1, first=0):
    """Rows of unchunked notes with integer ids."""
    return [(f"i:{first + at}", 0, vector) for at, vector in enumerate(vectors(count, seed))]
