"""Where snapshots lie: a local folder, or anything that fsspec reaches. Every file is checked before it is used."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ._errors import CorruptError, NotFoundError, SnapshotError, UnsupportedError
from ._forks import begin
from ._manifest import FileRef, Manifest, parse
from ._temporary import temporary

_SNAPSHOTS = "snapshots"
_MANIFEST = re.compile(r"(\d{20})\.json")
_BLOCK = 1 << 20
_PASSWORD = re.compile(r"(://[^/@:]*:)[^/]*@")
_OWN = 0o700  # as the copies themselves: for this user alone
_COPY = re.compile(r"[0-9a-f]{64}\.\w+|scalingnote-\w+\.part")
_KEPT = 7 * 24 * 3600.0  # how long a copy stays that nothing uses, in seconds


class _Store(Protocol):
    def names(self, folder: str) -> Iterable[str]: ...
    def read(self, key: str) -> bytes: ...
    def copy(self, key: str, target: Path) -> None: ...


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self, folder: str) -> Iterable[str]:
        return [entry.name for entry in (self.folder / folder).iterdir()]

    def read(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def copy(self, key: str, target: Path) -> None:
        shutil.copyfile(self.folder / key, target)


class _Remote:
    def __init__(self, uri: str, shown: str, storage_options: Mapping[str, Any]) -> None:
        self._uri, self._shown, self._options = uri, shown, storage_options
        begin(self)

    def _begin(self) -> None:
        """Have no connection: those of a parent are of no use to its child."""
        self._opened: tuple[Any, str] | None = None

    def _open(self, key: str) -> tuple[Any, str]:
        """Return the file system, and what it calls this key."""
        if self._opened is None:
            try:
                files, base = importlib.import_module("fsspec").core.url_to_fs(self._uri, **self._options)
            except ImportError as cause:
                told = f"reading {self._shown} takes fsspec: pip install 'scalingnote-reader[remote]'"
                raise UnsupportedError(f"{told} and the package of its store ({cause})") from cause
            self._opened = files, base.rstrip("/")
        files, base = self._opened
        return files, f"{base}/{key}"

    def names(self, folder: str) -> Iterable[str]:
        files, path = self._open(folder)
        # A listing that was kept would never show a newer snapshot.
        files.invalidate_cache(path)
        return [PurePosixPath(name).name for name in files.ls(path, detail=False)]

    def read(self, key: str) -> bytes:
        files, path = self._open(key)
        data: bytes = files.cat_file(path)
        return data

    def copy(self, key: str, target: Path) -> None:
        files, path = self._open(key)
        files.get_file(path, str(target))


class Root:
    """One root, and the folder that copies of its files go to."""

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        cache: str | os.PathLike[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a root; nothing is read yet."""
        uri = os.fspath(uri)
        # It is in errors, and so in logs.
        self.uri = _PASSWORD.sub(r"\1***@", uri)
        folder = _local_folder(uri)
        self._store: _Store = _Folder(folder) if folder else _Remote(uri, self.uri, storage_options or {})
        # Files of a local folder are mapped where they are unless the caller wants copies.
        self._folder = folder if cache is None else None
        self._cache = None if cache is None else Path(cache)
        begin(self)

    def _begin(self) -> None:
        """Have no copies: a parent's temporary folder goes when the parent wants, and its copies with it."""
        self._temporary: Path | None = None
        self._copied: set[Path] = set()

    def numbers(self) -> list[int]:
        """Numbers of all snapshots, ascending."""
        try:
            names = self._store.names(_SNAPSHOTS)
        except FileNotFoundError:
            return []
        return sorted(int(found[1]) for name in names if (found := _MANIFEST.fullmatch(name)))

    def newest(self) -> int:
        """Return the greatest number."""
        numbers = self.numbers()
        if not numbers:
            told = f"there is no snapshot in {self.uri}: `scalingnote run` publishes one"
            raise NotFoundError(f"{told}; if it did, is this its root, and is the disk mounted?")
        return numbers[-1]

    def manifest(self, number: int) -> Manifest:
        """Read the manifest with this number."""
        try:
            data = self.read(f"{_SNAPSHOTS}/{number:020}.json")
        except NotFoundError as cause:
            there = self.numbers()
            which = f"snapshots {there[0]} to {there[-1]}" if there else "no snapshot"
            raise NotFoundError(f"snapshot {number} is not in {self.uri}, which has {which}") from cause
        return parse(data, number)

    def read(self, key: str) -> bytes:
        """Read a small file."""
        with self._told(key):
            return self._store.read(key)

    def read_file(self, file: FileRef) -> bytes:
        """Read a small published file whole; its bytes are checked."""
        data = self.read(file.path)
        if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
            raise CorruptError(f"{file.path} in {self.uri} is not the file that was published")
        return data

    def fetch(self, file: FileRef, *, check: bool) -> Path:
        """Return where the file's bytes are on this machine; with `check` they are hashed, and always when copied."""
        if self._folder is not None:
            path = self._folder / file.path
            with self._told(file.path):
                self._compare(path, file, check=check)
            return path
        folder = self._copies()
        path = folder / (file.sha256 + PurePosixPath(file.path).suffix)
        if self._is_there(path, file, check=check):
            with contextlib.suppress(OSError):  # of a cache that is read-only
                os.utime(path)
        else:
            descriptor, name = tempfile.mkstemp(dir=folder, prefix="scalingnote-", suffix=".part")
            os.close(descriptor)
            part = Path(name)
            try:
                with self._told(file.path):
                    self._store.copy(file.path, part)
                    self._compare(part, file, check=True)
                part.replace(path)
            except OSError as cause:
                if cause.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                told = f"{folder} has no room for {file.path} of {self.uri}, {file.size} bytes"
                raise SnapshotError(f"{told}: free some, or name another folder with `cache`") from cause
            finally:
                part.unlink(missing_ok=True)
        self._copied.add(path)
        return path

    def trim(self, keep: Iterable[FileRef]) -> None:
        """Remove the copies made here that are not of these files, and what nothing in the cache has used for a week.

        What is mapped stays readable.
        """
        kept = {file.sha256 for file in keep}
        for path in [path for path in {*self._copied, *self._unused()} if path.stem not in kept]:
            # Windows refuses while it is mapped: then it goes another time.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                self._copied.discard(path)

    def _unused(self) -> Iterator[Path]:
        """Yield what earlier processes copied, or were just copying when they were killed."""
        before = time.time() - _KEPT
        with contextlib.suppress(OSError):
            for path in self._cache.iterdir() if self._cache else ():
                if _COPY.fullmatch(path.name) and path.stat().st_mtime < before:
                    yield path

    def _copies(self) -> Path:
        """Return the folder that copies go to. What cleans up temporary folders may have taken it."""
        if self._cache is not None:
            self._cache.mkdir(_OWN, parents=True, exist_ok=True)
            return self._cache
        if self._temporary is None or not self._temporary.is_dir():
            self._temporary = temporary(self)
        return self._temporary

    def _is_there(self, path: Path, file: FileRef, *, check: bool) -> bool:
        try:
            self._compare(path, file, check=check)
        except (FileNotFoundError, CorruptError):
            return False
        return True

    def _compare(self, path: Path, file: FileRef, *, check: bool) -> None:
        size = path.stat().st_size
        if size != file.size:
            raise CorruptError(f"{file.path} in {self.uri} has {size} bytes, {file.size} were published")
        if check and _sha256(path) != file.sha256:
            raise CorruptError(f"{file.path} in {self.uri} is not the file that was published: its SHA-256 differs")

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as cause:
            raise NotFoundError(f"{key} is not in {self.uri}") from cause


def _local_folder(uri: str) -> Path | None:
    """Return the folder that a path or a `file://` URI names; `None` for other URIs."""
    if "://" not in uri:
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{uri} is not an absolute file URI: write file:///path")
    return Path(unquote(parts.path))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
