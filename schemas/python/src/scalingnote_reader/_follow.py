"""Following the newest snapshot while serving: a newer one takes over only when it has proved itself."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ._errors import NotFoundError, SnapshotError
from ._forks import begin
from ._root import Root
from ._snapshot import Snapshot, open_newest

_LONGEST_PAUSE = 600.0
_LAST_LOOK = 5.0
_log = logging.getLogger("scalingnote_reader")


def follow(
    root: str | os.PathLike[str],
    *,
    every: float = 10.0,
    cache: str | os.PathLike[str] | None = None,
    check: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Follower:
    """Open the newest snapshot and look for a newer one every so many seconds, in a thread of its own.

    The parameters are those of `Snapshot.open`. A `cache` folder should not be another follower's: of its copies, those
    that the snapshot in service does not need are removed. Forked processes may share theirs.
    """
    return Follower(Root(root, cache=cache, storage_options=storage_options), every, check)


class Follower:
    """The snapshot in service. A context manager; leaving it stops looking, what somebody holds stays open.

    In a forked child (`preload_app` of gunicorn, `fork` of multiprocessing) it goes on with the first use of `current`.
    """

    def __init__(self, root: Root, every: float, check: bool) -> None:
        """Open the newest snapshot and begin to look; call `follow`."""
        if not 0 < every <= threading.TIMEOUT_MAX:
            raise ValueError(f"`every` is {every}: how many seconds pass between two looks, more than 0")
        self._root = root
        self._every = every
        self._check = check
        self._closed = False
        self._broken: tuple[int, float, float] | None = None  # number, pause, when to try again
        self._said = ("", 0.0)  # what was logged, and until when it need not be again
        self.failure: Exception | None = None
        """Why the newest snapshot is not in service; `None` where it is."""
        self._current: Snapshot | None = None
        begin(self)
        if not self.look():
            raise self.failure or NotFoundError(f"there is no snapshot in {root.uri}")
        self._start()

    def _begin(self) -> None:
        """Have no thread, and nobody who looks. In a forked child `current` starts a thread."""
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._looking = threading.Lock()
        self._stop = threading.Event()

    @property
    def current(self) -> Snapshot:
        """The snapshot in service. Take it once a query, so that an answer is of one snapshot."""
        if self._current is None:
            raise NotFoundError(f"no snapshot of {self._root.uri} is in service")
        if self._thread is None:
            self._start()
        return self._current

    def look(self) -> bool:
        """Look now; return whether a newer snapshot went into service. What goes wrong is logged, and `failure`."""
        with self._looking:
            number = None
            try:
                # A root without any snapshot is not up to date: a disk that is not mounted any more looks like that.
                newest = self._root.newest()
                known = self._current.number if self._current else 0
                if newest < known:
                    told = f"the newest snapshot of {self._root.uri} is {newest}, and {known} was there before"
                    raise NotFoundError(f"{told}: if the root was replaced, call `follow` again")
                if newest == known:
                    self._succeeded()
                    return False
                number = newest
                if self._broken and self._broken[0] == number and time.monotonic() < self._broken[2]:
                    return False
                newer = open_newest(self._root, number, self._current, check=self._check)
            except Exception as error:
                self._failed(number, error)
                return False
            self._current = newer
            self._succeeded()
            _log.info("snapshot %d of %s is in service", newer.number, self._root.uri)
            return True

    def close(self) -> None:
        """Stop looking. The snapshot in service stays as it is. A look under way is waited for, but not for long."""
        with self._starting:
            self._closed = True
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST_LOOK)

    def __enter__(self) -> Follower:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop looking."""
        self.close()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="scalingnote-follow", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.look()

    def _succeeded(self) -> None:
        if self.failure is not None and self._current is not None:
            _log.info("%s is up to date again", self._current)
        self._broken = self.failure = None
        self._said = ("", 0.0)

    def _failed(self, number: int | None, error: Exception) -> None:
        self.failure = error
        if self._current is not None:
            what = "no newer snapshot is found" if number is None else f"snapshot {number} is not taken over"
            text = f"{what}, {self._current} stays in service: {type(error).__name__}: {error}"
            # A root that is gone fails every look: once in ten minutes is enough to read.
            now = time.monotonic()
            repeated = text == self._said[0] and now < self._said[1]
            if not repeated:
                self._said = (text, now + _LONGEST_PAUSE)
            unforeseen = not isinstance(error, (SnapshotError, OSError))
            _log.log(logging.DEBUG if repeated else logging.ERROR, text, exc_info=unforeseen)
        if number is not None:
            known = self._broken[1] * 2 if self._broken and self._broken[0] == number else self._every
            pause = min(known, max(_LONGEST_PAUSE, self._every))
            self._broken = (number, pause, time.monotonic() + pause)
