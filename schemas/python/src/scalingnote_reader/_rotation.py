"""The rotation before the sign codes of `b1r` (schemas/search.md)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_ROUNDS = 4


def rotate(vector: Floats, seed: int) -> Floats:
    """Rotate a vector: four rounds of changed signs and a Walsh-Hadamard transform of its first or last elements."""
    rotated = vector.astype(np.float32)
    dimensions = len(rotated)
    block = 1 << (dimensions.bit_length() - 1)
    scale = np.float32(1) / np.sqrt(np.float32(block))
    for number, signs in enumerate(_signs(seed, dimensions)):
        rotated *= signs
        start = 0 if number % 2 == 0 else dimensions - block
        rotated[start : start + block] = _transform(rotated[start : start + block]) * scale
    return rotated


def _transform(x: Floats) -> Floats:
    half = 1
    while half < len(x):
        low, high = x.reshape(-1, 2, half).transpose(1, 0, 2)
        x = np.stack([low + high, low - high], axis=1).reshape(-1)
        half *= 2
    return x


@lru_cache(maxsize=4)
def _signs(seed: int, dimensions: int) -> Floats:
    """By round, 1 or -1 for every element: the highest bit of SplitMix64's output, set means negative."""
    first = (seed + 0x9E3779B97F4A7C15) % (1 << 64)
    # Arrays of 64 bits wrap, as they must here.
    x = np.arange(_ROUNDS * dimensions, dtype=np.uint64) + np.array([first], np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    signs: Floats = np.where(x >> np.uint64(63), np.float32(-1), np.float32(1)).reshape(_ROUNDS, dimensions)
    return signs
