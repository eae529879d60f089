"""The ids file of one segment: whose vector a row is, and what is stored with it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ._errors import CorruptError
from ._forks import begin
from ._manifest import FileRef
from ._root import Root

_OWN = ("key", "note_id", "chunk", "text_hash", "part", "row")


class Notes:
    """Note ids and chunks are read when it is opened, stored columns when they are first asked for, once."""

    def __init__(self, path: Path, keys: npt.NDArray[np.uint64]) -> None:
        """Read the ids, which must be those of these keys."""
        # Opened for good, so that a gc that deletes the file does not matter.
        with _parquet(path):
            self._file = pq.ParquetFile(path, memory_map=True)
            table = self._file.read(["key", "note_id", "chunk"]).combine_chunks()
            own_keys, ids = table["key"].to_numpy(), table["note_id"].chunks
            self.chunks: npt.NDArray[np.uint32] = table["chunk"].to_numpy()
        if not np.array_equal(own_keys, keys):
            raise CorruptError(f"the keys of {path} are not those of the index beside it")
        self.ids: pa.Array = pa.concat_arrays(ids)
        names = self._file.schema_arrow.names
        self._names = list(names[len(_OWN) :])
        self._stored: pa.Table | None = None
        begin(self)

    def _begin(self) -> None:
        """Have nobody read."""
        self._reading = threading.Lock()

    def note(self, row: int) -> int | str:
        """Return the note id as the corpus gave it."""
        return note_id(self.ids[row].as_py())

    def row_of(self, note: int | str, chunk: int, live: npt.NDArray[np.bool_]) -> int | None:
        """Return the live row of a note's chunk."""
        # numpy's integers are none of Python's, and what an array of ids gives.
        tagged = f"i:{note}" if isinstance(note, (int, np.integer)) else f"s:{note}"
        same = pc.equal(self.ids, tagged).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(same & live & (self.chunks == chunk))
        return int(rows[0]) if len(rows) else None

    def table(self) -> pa.Table:
        """Return the stored columns of every row."""
        with self._reading:
            if self._stored is None:
                self._stored = self._file.read(self._names)
            return self._stored

    def stored(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return the stored columns of these rows."""
        if not self._names or not rows:
            return [{} for _ in rows]
        found: list[dict[str, Any]] = self.table().take(pa.array(rows, pa.int64())).to_pylist()
        return found


def note_id(tagged: str) -> int | str:
    """Take the type off a stored note id: `i:42` is the integer, `s:42` the string."""
    kind, _, value = tagged.partition(":")
    if kind not in ("i", "s"):
        raise CorruptError(f"the stored note id {tagged!r} must start with `i:` or `s:`")
    return int(value) if kind == "i" else value


def removed_keys(root: Root, file: FileRef | None) -> npt.NDArray[np.uint64]:
    """Return the keys of a segment that no longer count."""
    if file is None:
        return np.empty(0, np.uint64)
    data = root.read_file(file)
    with _parquet(file.path):
        keys: npt.NDArray[np.uint64] = pq.read_table(pa.BufferReader(data))["key"].to_numpy()
    return keys


@contextlib.contextmanager
def _parquet(file: Path | str) -> Iterator[None]:
    """Name a file that is not Parquet, or lacks a column."""
    try:
        yield
    except (pa.ArrowInvalid, KeyError) as cause:
        raise CorruptError(f"{file} is not the Parquet file that its name says: {cause}") from cause
