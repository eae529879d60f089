"""From a unit vector to what the index holds, and from its distances back to cosines (schemas/search.md)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._errors import UnsupportedError
from ._manifest import Options, Signs
from ._rotation import Floats, rotate

_MEAN_UNIT = np.float32(1 / 32768)


def unit(vector: npt.ArrayLike, dimensions: int) -> Floats:
    """Scale a query to unit length."""
    query = np.asarray(vector, dtype=np.float64)
    if query.shape != (dimensions,):
        raise ValueError(f"the query vector has shape {query.shape}, the snapshot's vectors {(dimensions,)}")
    norm = float(np.linalg.norm(query))
    if not np.isfinite(norm) or norm == 0.0:
        raise ValueError("the query vector is zero or not finite")
    return (query / norm).astype(np.float32)


def probe(query: Floats, options: Options) -> npt.NDArray[np.generic]:
    """Bring a unit vector to the element type of the index."""
    match options.quantization:
        case "f32":
            return query
        case "f16":
            return query.astype(np.float16)
        case "bf16":
            return _to_bfloat16(query)
        case "i8":
            # usearch's own cast uses another scale and would keep about 2 of the 7 bits.
            peak = np.abs(query).max()
            scale = np.maximum(np.float32(options.scale), np.float32(127) / peak)
            codes: npt.NDArray[np.int8] = np.clip(np.rint(query * scale), -127, 127).astype(np.int8)
            return codes
        case "b1":
            return np.packbits(query > 0, bitorder="little")
        case "b1r" if options.signs is not None:
            return np.packbits(rotate(query - _mean(options.signs), options.signs.seed) > 0, bitorder="little")
        case other:
            raise UnsupportedError(f"the index is quantised as {other!r}: use a newer release of this package")


def cosines(distances: Floats, query: Floats, options: Options) -> Floats:
    """Return the cosines with the query that the index's distances stand for."""
    if options.quantization not in ("b1", "b1r"):
        return np.float32(1) - distances
    dimensions = np.float32(len(query))
    likely: Floats = np.cos(np.float32(np.pi) * distances / dimensions)
    if options.signs is None:
        return likely
    # That was the angle about the mean; numbers that are spread normally are as long as this there.
    mean = _mean(options.signs)
    length = np.float32(options.signs.gain) * np.sqrt(dimensions * np.float32(2 / np.pi))
    whole: Floats = query @ mean + np.linalg.norm(query - mean) * length * likely
    return whole


def _mean(signs: Signs) -> Floats:
    return np.array(signs.mean, np.float32) * _MEAN_UNIT


def _to_bfloat16(query: Floats) -> Floats:
    """Round to bfloat16, ties to even, and keep it as f32: usearch's own cast is then exact."""
    bits = query.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
