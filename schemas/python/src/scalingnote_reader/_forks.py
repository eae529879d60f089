"""What a forked process has to begin again: its parent's threads are not there, nor who holds its parent's locks."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something with locks, threads or connections of its own."""

    def _begin(self) -> None:
        """Make them: at first, and in a forked child before anything else runs there."""


_all: weakref.WeakSet[Forked] = weakref.WeakSet()


def begin(this: Forked) -> None:
    """Have it begin now, and again in every child that is forked."""
    this._begin()
    _all.add(this)


def _begin_again() -> None:
    for this in list(_all):
        this._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again)
