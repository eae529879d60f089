"""The vectors of one segment: its usearch index and its f16 sidecar, both mapped."""

from __future__ import annotations

import math
import struct
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
from usearch.index import Index

from ._errors import CorruptError
from ._forks import begin
from ._manifest import Canary, Options
from ._quantize import cosines, probe
from ._rotation import Floats

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_HEADER = struct.Struct("<5s3xIIQ")
_START = 64
_BLOCK = 1 << 14  # rows that an exact search turns into f32 at a time
# When comparing with every live row costs less than walking the graph past the others: as `scalingnote` decides.
_MET, _OVERHEAD = 24, 600
# Scores of canaries may differ by f16 rounding and the four digits of the record; one canary in four may be on a
# border of the walk that another processor rounds differently.
_TOLERANCE = 2e-3
_SPARE = 4


class Vectors:
    """Keys in ascending order, their vectors, and the graph over them. May be used by several threads."""

    def __init__(self, index: Path, sidecar: Path, options: Options, dimensions: int) -> None:
        """Map both files, which must belong together."""
        self.options = options
        self.dimensions = dimensions
        with sidecar.open("rb") as file:
            header = file.read(_HEADER.size)
        magic, version, width, count = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
        start = -(-(_START + 8 * count) // 64) * 64
        size = start + 2 * count * dimensions
        if (magic, version, width) != (b"SNF16", 1, dimensions) or sidecar.stat().st_size != size:
            raise CorruptError(f"{sidecar} is not an f16 sidecar of {dimensions} dimensions")
        self.keys: npt.NDArray[np.uint64] = np.memmap(sidecar, "<u8", "r", _START, (count,))
        self._halves: npt.NDArray[np.float16] = np.memmap(sidecar, "<f2", "r", start, (count, dimensions))
        restored = _restore(index)
        if restored is None or restored.ndim != dimensions or len(restored) != count:
            raise CorruptError(f"{index} is not the index of {sidecar}")
        restored.expansion_search = options.expansion_search  # type: ignore[misc]
        self._index = restored
        self._is_of_bits = options.quantization in ("b1", "b1r")
        begin(self)

    def _begin(self) -> None:
        """Have nobody search."""
        # usearch gives every call of one thread the same working memory.
        self._one_at_a_time = threading.Lock()

    def __len__(self) -> int:
        """How many there are, removed ones included."""
        return len(self.keys)

    def rows_of(self, keys: npt.NDArray[np.uint64]) -> Rows:
        """Return the rows of keys that must be there."""
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        if not np.array_equal(self.keys[rows], keys):
            raise CorruptError("a key belongs to no vector of the segment")
        return rows

    def vector(self, row: int) -> Floats:
        """Return one stored vector."""
        vector: Floats = self._halves[row].astype(np.float32)
        return vector

    def search(self, query: Floats, k: int, live: Mask | None, *, exact: bool = False) -> tuple[Rows, Floats]:
        """Return rows and scores of the k best among the live ones (`None`: all), best first, ties by key."""
        count = len(self) if live is None else int(np.count_nonzero(live))
        k = min(k, count)
        if k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        candidates = k * max(self.options.rescore, 1)
        if self._is_of_bits:
            # So many are equally far that which of them come is chance: take enough to have those of any other reader,
            # with `b1r` also of one whose query is not cut to bits.
            candidates *= 4 if self.options.signs is not None else 2
        if exact or (live is not None and self._is_worth_scanning(candidates, count)):
            rows = np.arange(len(self)) if live is None else np.flatnonzero(live)
            return self._best(rows, self._scores(rows, query), k)
        rows, scores = self._walk(query, min(candidates, count), live, count)
        if self.options.rescore:
            scores = self._scores(rows, query)
        return self._best(rows, scores, k)

    def check(self, canaries: tuple[Canary, ...]) -> None:
        """Ask the canaries again: another usearch or another processor shows in the answers first."""
        wrong = [told for canary in canaries if (told := self._differs(canary))]
        if len(wrong) > len(canaries) // _SPARE:
            raise CorruptError(
                f"{len(wrong)} of {len(canaries)} canary queries answer otherwise than when the index was built: "
                f"{wrong[0]}"
            )

    def _differs(self, canary: Canary) -> str | None:
        told = f"the canary of key {canary.key:016x}"
        row = int(self.rows_of(np.array([canary.key], np.uint64))[0])
        query = self.vector(row)
        rows, scores = self.search(query / np.linalg.norm(query), len(canary.hits), None)
        if len(rows) != len(canary.hits):
            return f"{told} has {len(rows)} of {len(canary.hits)} hits"
        for rank, (score, (_, expected)) in enumerate(zip(scores, canary.hits, strict=True), 1):
            better = score > expected and self._is_of_bits
            if not (better or abs(score - expected) <= _TOLERANCE):
                return f"{told} has score {score:.4f} at rank {rank}, {expected} was recorded"
        known = {key for key, _ in canary.hits}
        border = canary.hits[-1][1] + _TOLERANCE if canary.hits else 0.0
        for key, score in zip(self.keys[rows].tolist(), scores, strict=True):
            if key not in known and score > border and not self._is_of_bits:
                return f"{told} finds key {key:016x}, which was not among its hits"
        return None

    def _walk(self, query: Floats, wanted: int, live: Mask | None, count: int) -> tuple[Rows, Floats]:
        """Ask the graph for live rows: usearch knows no filter here, so for more, until enough of them are live."""
        ask = wanted if live is None else math.ceil(wanted * 1.25 * len(self) / count)
        while True:
            ask = min(ask, len(self))
            with self._one_at_a_time:
                found = self._index.search(probe(query, self.options), ask, threads=1)
            rows = self.rows_of(np.asarray(found.keys, np.uint64))
            scores = cosines(np.asarray(found.distances, np.float32), query, self.options)
            if live is not None:
                passing = live[rows]
                rows, scores = rows[passing], scores[passing]
            if len(rows) >= wanted or ask == len(self):
                return rows[:wanted], scores[:wanted]
            ask *= 4

    def _scores(self, rows: Rows, query: Floats) -> Floats:
        scores = np.empty(len(rows), np.float32)
        for at in range(0, len(rows), _BLOCK):
            block = self._halves[rows[at : at + _BLOCK]].astype(np.float32)
            # Not `@`: BLAS gives equal vectors scores that differ by where they stand, and ties go by note id.
            np.einsum("ij,j->i", block, query, out=scores[at : at + _BLOCK])
        return scores

    def _best(self, rows: Rows, scores: Floats, k: int) -> tuple[Rows, Floats]:
        order = np.lexsort((self.keys[rows], -scores))[:k]
        return rows[order], scores[order]

    def _is_worth_scanning(self, candidates: int, count: int) -> bool:
        walk = _MET * max(candidates, self.options.expansion_search) * (self.dimensions + _OVERHEAD)
        return count * count * self.dimensions <= walk * len(self)


def _restore(index: Path) -> Index | None:
    """Map a usearch file. A usearch that is told of a file that is gone says nothing."""
    index.stat()
    try:
        return Index.restore(str(index), view=True)
    except (RuntimeError, ValueError) as cause:
        raise CorruptError(f"{index} is not a usearch index") from cause
