"""Temporary folders that go with what they are for, and with the next process where theirs was killed.

A process holds the lock of its folder until it ends, however it ends. So a folder that nobody has locked is nobody's.
The system's own cleaning of temporary folders heeds the lock, too.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path

_PREFIX = "scalingnote-reader-"


def temporary(owner: object) -> Path:
    """Make a folder that is removed with its owner, once those of killed processes are."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = _lock(left, wait=False)
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = _lock(folder, wait=True)
        # Another process may have found it before it was locked.
        if folder.is_dir():
            weakref.finalize(owner, _remove, folder, lock, os.getpid())
            return folder
        if lock is not None:
            os.close(lock)


def _remove(folder: Path, lock: int | None, owner: int) -> None:
    """Remove a folder; a forked process that ends leaves it to the one that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder for as long as the descriptor is open; `None` where that cannot be, or may not."""
    if sys.platform == "win32":  # an open file there cannot be removed anyway
        return None
    import fcntl  # noqa: PLC0415 - Windows has none

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
