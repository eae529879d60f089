"""Search ScalingNote's snapshots.

>>> from scalingnote_reader import Snapshot
>>> snapshot = Snapshot.open("s3://example-index/notes")
>>> for hit in snapshot.search(vector, k=10):
...     print(hit.score, hit.note_id, hit.stored)
"""

from ._errors import CorruptError, NotFoundError, SnapshotError, UnsupportedError
from ._follow import Follower, follow
from ._snapshot import Hit, Passing, Snapshot, Where

__all__ = [
    "CorruptError",
    "Follower",
    "Hit",
    "NotFoundError",
    "Passing",
    "Snapshot",
    "SnapshotError",
    "UnsupportedError",
    "Where",
    "follow",
]
