"""One opened snapshot: all segments of all shards, asked one after the other and merged."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ._errors import CorruptError, NotFoundError
from ._manifest import FileRef, Manifest, SegmentRef
from ._notes import Notes, removed_keys
from ._quantize import unit
from ._root import Root
from ._rotation import Floats
from ._vectors import Mask, Vectors

_ROW = "__row_of_segment"


@dataclass(frozen=True)
class Hit:
    """One note found."""

    score: float
    """Cosine similarity, higher is better."""
    note_id: int | str
    """As the corpus gave it."""
    chunk: int
    """Which part of a long note matched best; 0 where notes are not chunked."""
    stored: dict[str, Any]
    """Its stored columns."""


@dataclass(frozen=True)
class Passing:
    """The notes of one snapshot that pass a condition, by segment: for more than one search."""

    content_hash: str
    rows: tuple[Mask, ...]


Where: TypeAlias = "pc.Expression | Callable[[pa.Table], npt.ArrayLike | pa.ChunkedArray] | Passing"
"""A condition on stored columns: an Arrow expression, a function from their table to a mask, what `passing` gave."""


@dataclass(frozen=True)
class _Segment:
    ref: SegmentRef
    vectors: Vectors
    notes: Notes
    live: Mask

    def search(self, query: Floats, k: int, live: Mask, *, exact: bool) -> list[tuple[float, int]]:
        """Return score and row of the k best notes, each by its best chunk."""
        most = int(np.count_nonzero(live))
        wanted = 4 * k if self.ref.chunked else k
        among = None if most == len(live) else live
        while True:
            wanted = min(wanted, most)
            rows, scores = self.vectors.search(query, wanted, among, exact=exact)
            best: dict[str, tuple[float, int]] = {}
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                if len(best) < k:
                    best.setdefault(self.notes.ids[row].as_py(), (score, row))
            if len(best) >= k or wanted == most or len(rows) < wanted:
                return list(best.values())
            wanted *= 4


class Snapshot:
    """An immutable set of notes that can be searched. May be used by several threads."""

    def __init__(self, manifest: Manifest, segments: tuple[_Segment, ...], root: Root) -> None:
        """Put an opened snapshot together; call `Snapshot.open`."""
        self._manifest = manifest
        self._segments = segments
        self._root = root  # its temporary folder lives as long as this

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        number: int | None = None,
        *,
        cache: str | os.PathLike[str] | None = None,
        check: bool = True,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """Open the newest snapshot below `root` (a folder or an fsspec URI), or the one with this number.

        Every file is hashed and every canary query asked again; `check=False` leaves out both for files that are mapped
        where they are. Those of a local folder are, so nobody else may write into them meanwhile. With `cache`, and for
        a URI always, they are copied into that folder (a temporary one by default) and hashed on the way.
        """
        opened = Root(root, cache=cache, storage_options=storage_options)
        if number is not None:
            return open_beside(opened, opened.manifest(operator.index(number)), None, check=check)
        return open_newest(opened, opened.newest(), None, check=check)

    @property
    def number(self) -> int:
        """Its number."""
        return self._manifest.number

    @property
    def notes(self) -> int:
        """How many notes it has."""
        return self._manifest.notes

    @property
    def dimensions(self) -> int:
        """Elements of a vector."""
        return self._manifest.dimensions

    @property
    def manifest(self) -> dict[str, Any]:
        """The whole manifest (schemas/manifest.schema.json)."""
        return self._manifest.json

    @property
    def query_towers(self) -> list[dict[str, Any]]:
        """The towers whose vectors may be searched for; any other's mean nothing here."""
        towers: list[dict[str, Any]] = self._manifest.json["content"]["query_towers"]
        return towers

    def search(
        self, vector: npt.ArrayLike, k: int = 10, *, where: Where | None = None, exact: bool = False
    ) -> list[Hit]:
        """Find the k notes nearest to a query tower's vector, best first, equal scores by note id.

        `where` looks among some notes only: `pyarrow.compute.field("lang") == "en"`. `exact` compares with every vector
        instead of walking the graphs.
        """
        query = unit(vector, self.dimensions)
        k = min(k, self.notes)
        if k <= 0:
            return []
        live = [segment.live for segment in self._segments] if where is None else self.passing(where).rows
        found: list[tuple[float, int | str, int, int]] = []
        for at, (segment, rows) in enumerate(zip(self._segments, live, strict=True)):
            hits = segment.search(query, k, rows, exact=exact)
            found += [(score, segment.notes.note(row), at, row) for score, row in hits]
        found.sort(key=lambda hit: (-hit[0], isinstance(hit[1], str), hit[1]))
        best: dict[int | str, tuple[float, int | str, int, int]] = {}
        for hit in found:  # the chunks of one note may be in several segments
            best.setdefault(hit[1], hit)
        return self._hits(list(best.values())[:k])

    def passing(self, where: Where) -> Passing:
        """Evaluate a condition once, for several searches."""
        if isinstance(where, Passing):
            if where.content_hash != self._manifest.content_hash:
                raise ValueError("the condition was evaluated on another snapshot")
            return where
        rows = tuple(segment.live & _mask(segment.notes.table(), where) for segment in self._segments)
        return Passing(self._manifest.content_hash, rows)

    def vector(self, note_id: int | str, chunk: int = 0) -> Floats:
        """Return a note's own vector, for notes like it. KeyError where the snapshot does not have the note."""
        for segment in self._segments:
            row = segment.notes.row_of(note_id, chunk, segment.live)
            if row is not None:
                return segment.vectors.vector(row)
        raise KeyError(note_id)

    def check_canaries(self) -> int:
        """Ask every index again what it was asked when it was built; return how many queries that were.

        Raises CorruptError where what runs here is not what was measured then. `open` does it unless told not to.
        """
        for segment in self._segments:
            segment.vectors.check(segment.ref.canaries)
        return sum(len(segment.ref.canaries) for segment in self._segments)

    def __repr__(self) -> str:
        """Say what it is."""
        return f"<Snapshot {self.number} of {self._root.uri}: {self.notes} notes>"

    def _hits(self, best: list[tuple[float, int | str, int, int]]) -> list[Hit]:
        stored: dict[tuple[int, int], dict[str, Any]] = {}
        for at in {at for _, _, at, _ in best}:
            rows = [row for _, _, other, row in best if other == at]
            columns = self._segments[at].notes.stored(rows)
            stored.update(((at, row), found) for row, found in zip(rows, columns, strict=True))
        return [
            Hit(score, note, int(self._segments[at].notes.chunks[row]), stored[at, row])
            for score, note, at, row in best
        ]

    def files(self) -> list[FileRef]:
        """Every file that it reads."""
        return [file for segment in self._segments for file in segment.ref.files()]


def open_newest(root: Root, number: int, before: Snapshot | None, *, check: bool) -> Snapshot:
    """Open what was the newest when it was looked for; a purge takes it once there is a newer one."""
    while True:
        try:
            return open_beside(root, root.manifest(number), before, check=check)
        except NotFoundError:
            newest = root.newest()
            if newest <= number:
                raise
            number = newest


def open_beside(root: Root, manifest: Manifest, before: Snapshot | None, *, check: bool) -> Snapshot:
    """Open a snapshot; indexes that are open in `before` are taken over."""
    try:
        return _open_beside(root, manifest, before, check=check)
    except FileNotFoundError as cause:
        raise NotFoundError(f"a file went while snapshot {manifest.number} was opened: {cause}") from cause


def _open_beside(root: Root, manifest: Manifest, before: Snapshot | None, *, check: bool) -> Snapshot:
    indexes: dict[tuple[FileRef, FileRef], Vectors] = {}
    ids: dict[tuple[FileRef, FileRef], Notes] = {}
    if before is not None and before._manifest.same_index(manifest):
        for open_already in before._segments:
            ref = open_already.ref
            indexes[ref.index, ref.sidecar] = open_already.vectors
            # Which keys an ids file belongs to was checked against this index alone.
            ids[ref.index, ref.ids] = open_already.notes
    segments = []
    for ref in manifest.segments:
        vectors = indexes.get((ref.index, ref.sidecar))
        if vectors is None:
            index, sidecar = (root.fetch(file, check=check) for file in (ref.index, ref.sidecar))
            vectors = Vectors(index, sidecar, manifest.options, manifest.dimensions)
        notes = ids.get((ref.index, ref.ids)) or Notes(root.fetch(ref.ids, check=check), vectors.keys)
        if len(vectors) != ref.vectors:
            raise CorruptError(f"{ref.index.path} has {len(vectors)} vectors, the manifest says {ref.vectors}")
        live = np.ones(len(vectors), np.bool_)
        live[vectors.rows_of(removed_keys(root, ref.removed))] = False
        segments.append(_Segment(ref, vectors, notes, live))
    snapshot = Snapshot(manifest, tuple(segments), root)
    if check:
        snapshot.check_canaries()
    root.trim(snapshot.files())
    return snapshot


def _mask(table: pa.Table, where: pc.Expression | Callable[[pa.Table], Any]) -> Mask:
    """Return which rows of a segment pass; a condition that is null does not."""
    mask = np.zeros(len(table), np.bool_)
    if isinstance(where, pc.Expression):
        numbered = table.append_column(_ROW, pa.array(np.arange(len(table))))
        mask[numbered.filter(where)[_ROW].to_numpy()] = True
        return mask
    passes = where(table)
    if isinstance(passes, pa.Array):
        passes = pa.chunked_array([passes])
    if isinstance(passes, pa.ChunkedArray) and pa.types.is_boolean(passes.type):
        passes = passes.fill_null(False)
    passes = np.asarray(passes)
    if passes.shape != mask.shape or passes.dtype != np.bool_:
        found = f"{passes.dtype} of shape {passes.shape}"
        raise ValueError(f"`where` returned {found}, not a bool for each of {len(table)} rows")
    return passes
