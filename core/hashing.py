"""A 64-bit hash of keys, ten million of them in a second or two."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

BLOCK = 1 << 16  # keys hashed at a time: their bytes stay in the cache
_STEP = np.uint64(0x9FB21C651E98DF25)  # odd; any bit moves about half of the product's bits
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64


def hash_keys(keys: pa.Array | pa.ChunkedArray, purpose: str, threads: int = 1) -> Hashes:
    """A hash of each key, uint64 [n]: a function of the key's bytes and of `purpose` alone.

    For each 8 bytes w of the key, little-endian and padded with zeros,

        h <- (h xor w) * c,    h <- h xor (h >> 32),

    from a start that holds purpose and length; then the finaliser of splitmix64 (Steele, Lea and
    Flood 2014). Hashes of keys that differ in a digit look random. Two keys may have the same
    hash, and anyone can find such keys, so equal hashes must be settled by the keys.

    Args:
        keys: text or binary, none of them null.
        purpose: another purpose gives independent hashes.
        threads: blocks hashed at a time.
    """
    start = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    chunks = keys.chunks if isinstance(keys, pa.ChunkedArray) else [keys]
    if any(chunk.null_count for chunk in chunks):
        raise ValueError("keys have empty entries")
    blocks = [chunk.slice(at, BLOCK) for chunk in chunks for at in range(0, len(chunk), BLOCK)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = list(pool.map(lambda block: _hash(block, start), blocks))
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def _hash(keys: pa.Array, start: int) -> Hashes:
    ends, data = _bytes(keys)
    lengths = np.diff(ends)
    out = np.empty(len(lengths), np.uint64)
    order = np.argsort(lengths, kind="stable")
    bounds = np.flatnonzero(np.diff(lengths[order], prepend=-1)).tolist()
    for first, last in pairwise([*bounds, len(order)]):
        rows = order[first:last]
        length = int(lengths[rows[0]])
        padded = np.zeros((len(rows), -(-length // 8) * 8), np.uint8)
        if length:
            padded[:, :length] = sliding_window_view(data, length)[ends[:-1][rows]]
        out[rows] = _mix(padded.view("<u8"), start, length)
    return out


def _mix(keys: Hashes, start: int, length: int) -> Hashes:
    """Hash of keys [n, w], each of w times 8 bytes, of this length in bytes."""
    first = (start ^ (length * int(_FIRST))) % 2**64
    h = np.full(len(keys), first, np.uint64)
    for column in range(keys.shape[1]):
        h ^= keys[:, column]
        h *= _STEP
        h ^= h >> np.uint64(32)
    h ^= h >> np.uint64(30)
    h *= _FIRST
    h ^= h >> np.uint64(27)
    h *= _SECOND
    h ^= h >> np.uint64(31)
    return h


def _bytes(keys: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets [n + 1] of the keys in their bytes, and those."""
    wide = pa.types.is_large_string(keys.type) or pa.types.is_large_binary(keys.type)
    if not wide and not (pa.types.is_string(keys.type) or pa.types.is_binary(keys.type)):
        raise TypeError(f"keys of type {keys.type}: expected text")
    _, offsets, data = keys.buffers()
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)
    ends = ends[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return ends - ends[0], text[ends[0] : ends[-1]]
