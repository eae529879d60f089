"""The manifest: which files a snapshot consists of (schemas/manifest.schema.json).

Nothing of it is believed before its version, its number and the hash of its content are checked. A field that this
package does not know is refused wherever it could change what a search finds: a newer release had a reason to write it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ._errors import CorruptError, UnsupportedError

VERSION = 1

_CONTENT = frozenset("space_id space notes vectors shard_count index shards parts stored_columns query_towers".split())
_SHARD = frozenset("shard notes vectors orphans source parts index sidecar ids removed deltas canaries".split())
_SEGMENT = frozenset("vectors index sidecar ids removed canaries".split())
_SIGNS = frozenset("seed mean query_share gain".split())
_OPTIONS = frozenset("quantization connectivity expansion_add expansion_search rescore builder".split())
# Of a key, as `scalingnote` has it: what no file system reads as anything but a name.
_NAME = re.compile("[A-Za-z0-9_.=+@-]+")
_LONGEST_KEY = 512
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRef:
    """A published file: its key below the root, and what its bytes are."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Canary:
    """A stored vector as a query, by its key, with the hits (key, score) that the index gave when it was built."""

    key: int
    hits: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class SegmentRef:
    """One index with the files that belong to it."""

    shard: int
    vectors: int
    chunked: bool
    index: FileRef
    sidecar: FileRef
    ids: FileRef
    removed: FileRef | None
    canaries: tuple[Canary, ...]

    def files(self) -> Iterator[FileRef]:
        """Every file of it."""
        yield from (self.index, self.sidecar, self.ids)
        if self.removed is not None:
            yield self.removed


@dataclass(frozen=True)
class Signs:
    """How `b1r` makes bits of a vector."""

    seed: int
    mean: tuple[int, ...]
    gain: float


@dataclass(frozen=True)
class Options:
    """How the indexes were built, as far as a search has to know."""

    quantization: str
    expansion_search: int
    rescore: int
    scale: float
    signs: Signs | None = None


@dataclass(frozen=True)
class Manifest:
    """One snapshot."""

    number: int
    content_hash: str
    space_id: str
    dimensions: int
    notes: int
    options: Options
    segments: tuple[SegmentRef, ...]
    json: dict[str, Any]

    def same_index(self, other: Manifest) -> bool:
        """Whether an index of one means in the other what it means here."""
        return (self.space_id, self.dimensions, self.options) == (
            other.space_id,
            other.dimensions,
            other.options,
        )


def parse(data: bytes, number: int) -> Manifest:
    """Read the manifest with this number."""
    try:
        document = json.loads(data, parse_float=_Written)
        if (version := document["version"]) != VERSION:
            raise UnsupportedError(
                f"the manifest has format version {version}, this package reads {VERSION}: use a newer one"
            )
        if document["number"] != number:
            raise CorruptError(f"the manifest says number {document['number']}, its name {number}")
        content = document["content"]
        text = "".join(_canonical(content))
        if hashlib.sha256(text.encode()).hexdigest() != document["content_hash"]:
            raise CorruptError("the manifest's content is not what its hash says: it was altered")
        return _manifest(document, content)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as cause:
        raise CorruptError(f"manifest {number} is not valid: {cause!r}") from cause


def _manifest(document: dict[str, Any], content: dict[str, Any]) -> Manifest:
    _only(content, _CONTENT, "content")
    options = content["index"]["options"]
    _only(options, _OPTIONS, "content.index.options")
    calibration = content["index"]["calibration"]
    dimensions = _count(content["space"]["dimensions"])
    if len(content["shards"]) != content["shard_count"]:
        raise CorruptError(f"it has {len(content['shards'])} of {content['shard_count']} shards")
    return Manifest(
        number=document["number"],
        content_hash=document["content_hash"],
        space_id=content["space_id"],
        dimensions=dimensions,
        notes=_count(content["notes"]),
        options=Options(
            quantization=options["quantization"],
            expansion_search=_count(options["expansion_search"]),
            rescore=_count(options["rescore"]),
            scale=float(calibration["scale"]),
            signs=_signs(calibration["signs"], dimensions) if options["quantization"] == "b1r" else None,
        ),
        segments=tuple(segment for shard in content["shards"] for segment in _segments(shard)),
        json=document,
    )


def _signs(signs: dict[str, Any], dimensions: int) -> Signs:
    _only(signs, _SIGNS, "content.index.calibration.signs")
    mean = tuple(signs["mean"])
    if len(mean) != dimensions or not all(type(one) is int and -32768 <= one <= 32767 for one in mean):
        raise ValueError(f"the mean of `signs` is not {dimensions} numbers of 16 bits")
    return Signs(seed=_count(signs["seed"]), mean=mean, gain=float(signs["gain"]))


def _segments(shard: dict[str, Any]) -> Iterator[SegmentRef]:
    _only(shard, _SHARD, "content.shards")
    if shard["index"] is None:
        if shard["vectors"]:
            raise CorruptError(f"shard {shard['shard']} has vectors and no index")
        return
    chunked = shard["vectors"] > shard["notes"]
    deltas = shard.get("deltas", [])
    live = sum(delta["vectors"] - _removed(delta) for delta in deltas)
    base = shard["vectors"] - live + _removed(shard)
    yield _segment(shard, shard["shard"], base, chunked)
    for delta in deltas:
        _only(delta, _SEGMENT, "content.shards.deltas")
        yield _segment(delta, shard["shard"], delta["vectors"], chunked)


def _segment(entry: dict[str, Any], shard: int, vectors: int, chunked: bool) -> SegmentRef:
    removed = entry.get("removed")
    return SegmentRef(
        shard=shard,
        vectors=vectors,
        chunked=chunked,
        index=_file(entry["index"]),
        sidecar=_file(entry["sidecar"]),
        ids=_file(entry["ids"]),
        removed=_file(removed["file"]) if removed else None,
        canaries=tuple(_canary(canary) for canary in entry.get("canaries", [])),
    )


def _removed(entry: dict[str, Any]) -> int:
    removed = entry.get("removed")
    return int(removed["vectors"]) if removed else 0


def _canary(canary: dict[str, Any]) -> Canary:
    hits = tuple((int(hit["key"], 16), float(hit["score"])) for hit in canary["hits"])
    return Canary(_count(int(canary["key"], 16)), hits)


def _file(entry: dict[str, Any]) -> FileRef:
    # A root may come from anybody; its manifest must not lead out of it, nor out of the cache, where a copy is named by
    # its SHA-256.
    path, sha256 = entry["path"], entry["sha256"]
    names = path.split("/")
    if len(path) > _LONGEST_KEY or any(name in (".", "..") or not _NAME.fullmatch(name) for name in names):
        raise CorruptError(f"the manifest names the file {path[:80]!r}, which is not a key below the root")
    if not _SHA256.fullmatch(sha256):
        raise CorruptError(f"the manifest says that the SHA-256 of {path} is {sha256[:80]!r}")
    return FileRef(path, _count(entry["size"]), sha256)


def _count(value: object) -> int:
    """Return a number that counts something, as the program writes it."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"{str(value)[:40]!r} is not a count")
    return value


def _only(entry: dict[str, Any], known: frozenset[str], place: str) -> None:
    if unknown := sorted(entry.keys() - known):
        raise UnsupportedError(f"{place} has {unknown[0]!r}, which this package does not know: use a newer one")


class _Written(float):
    """A float that remembers how it was written: the content's hash is over the text."""

    text: str

    def __new__(cls, text: str) -> _Written:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _canonical(value: object) -> Iterator[str]:
    """Yield the JSON without spaces, every object's keys sorted, in pieces."""
    if isinstance(value, dict):
        separator = "{"
        for key in sorted(value):
            yield f"{separator}{json.dumps(key, ensure_ascii=False)}:"
            yield from _canonical(value[key])
            separator = ","
        yield "}" if value else "{}"
    elif isinstance(value, list):
        separator = "["
        for item in value:
            yield separator
            yield from _canonical(item)
            separator = ","
        yield "]" if value else "[]"
    elif isinstance(value, _Written):
        yield value.text
    else:
        yield json.dumps(value, ensure_ascii=False)
