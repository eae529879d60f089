"""Where snapshots lie: a local folder, or anything that fsspec reaches. Every file is checked before it is used."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ._errors import CorruptError, NotFoundError, UnsupportedError
from ._manifest import FileRef, Manifest, parse

_SNAPSHOTS = "snapshots"
_MANIFEST = re.compile(r"(\d{20})\.json")
_BLOCK = 1 << 20
_OWN = 0o700  # as the copies themselves: for this user alone


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
    def __init__(self, uri: str, storage_options: Mapping[str, Any]) -> None:
        try:
            fsspec = importlib.import_module("fsspec")
        except ImportError as cause:
            raise UnsupportedError(f"reading {uri} takes fsspec: pip install 'scalingnote-reader[remote]'") from cause
        self._files, path = fsspec.core.url_to_fs(uri, **storage_options)
        self._base = path.rstrip("/")

    def names(self, folder: str) -> Iterable[str]:
        path = f"{self._base}/{folder}"
        # A listing that was kept would never show a newer snapshot.
        self._files.invalidate_cache(path)
        return [PurePosixPath(name).name for name in self._files.ls(path, detail=False)]

    def read(self, key: str) -> bytes:
        data: bytes = self._files.cat_file(f"{self._base}/{key}")
        return data

    def copy(self, key: str, target: Path) -> None:
        self._files.get_file(f"{self._base}/{key}", str(target))


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
        self.uri = os.fspath(uri)
        folder = _local_folder(self.uri)
        self._store: _Store = _Folder(folder) if folder else _Remote(self.uri, storage_options or {})
        # Files of a local folder are mapped where they are unless the caller wants copies.
        self._folder = folder if cache is None else None
        self._cache: Path | None = None
        if self._folder is None:
            if cache is None:
                cache = tempfile.mkdtemp(prefix="scalingnote-")
                weakref.finalize(self, _remove, cache, os.getpid())
            self._cache = Path(cache)
            self._cache.mkdir(_OWN, parents=True, exist_ok=True)
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
            raise NotFoundError(f"there is no snapshot in {self.uri}")
        return numbers[-1]

    def manifest(self, number: int) -> Manifest:
        """Read the manifest with this number."""
        return parse(self.read(f"{_SNAPSHOTS}/{number:020}.json"), number)

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
        assert self._cache is not None  # noqa: S101 - one of the two is set
        path = self._cache / (file.sha256 + PurePosixPath(file.path).suffix)
        if not self._is_there(path, file, check=check):
            # What cleans up temporary folders may have taken it.
            self._cache.mkdir(_OWN, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._cache, suffix=".part")
            os.close(descriptor)
            part = Path(name)
            try:
                with self._told(file.path):
                    self._store.copy(file.path, part)
                    self._compare(part, file, check=True)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        self._copied.add(path)
        return path

    def trim(self, keep: Iterable[FileRef]) -> None:
        """Remove the copies made here that are not of these files. What is mapped stays readable."""
        kept = {file.sha256 for file in keep}
        for path in [path for path in self._copied if path.stem not in kept]:
            # Windows refuses while it is mapped: then it goes another time.
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                self._copied.discard(path)

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


def _remove(folder: str, owner: int) -> None:
    """Remove a temporary folder; a forked process that ends leaves it to the one that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
