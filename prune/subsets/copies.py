"""Byte-identical copies in the pool, by the digests of its images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import UserError
from prune.methods.ordering import Keys, first_of_each

_BYTES = 32  # of a SHA-256
_WORDS = _BYTES // 8


def binary_digests(digests: pa.ChunkedArray) -> pa.Array:
    """SHA-256s [n] of 64 hex digits as bytes, in half the memory.

    Raises UserError where there is none.
    """
    lengths = pc.fill_null(pc.binary_length(digests), 0)
    try:
        if pc.any(pc.not_equal(lengths, 2 * _BYTES)).as_py():
            raise ValueError
        data = bytes.fromhex("".join(digests.to_pylist()))
    except ValueError:
        raise UserError(
            "--drop-copies: the score table has images without a digest; run prune.score again"
        ) from None
    buffers = [None, pa.py_buffer(data)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(_BYTES), len(digests), buffers)


def is_copy(keys: Keys, digests: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    """Whether an image [n] has the bytes of another whose key comes before its own.

    Args:
        keys: [n] text, unique.
        digests: [n] of `binary_digests`.
    """
    found = np.zeros(len(keys), bool)
    if isinstance(digests, pa.ChunkedArray):
        digests = digests.combine_chunks()
    codes = np.frombuffer(digests.buffers()[1], "<u8").reshape(-1, _WORDS)
    codes = codes[digests.offset : digests.offset + len(digests)]
    # One word of four is sorted; the others, and keys, are compared only where it ties.
    order = np.argsort(codes[:, -1])
    same = np.flatnonzero(np.diff(codes[order, -1]) == 0)
    if not same.size:
        return found
    suspects = np.union1d(order[same], order[same + 1])
    _, group = np.unique(codes[suspects], axis=0, return_inverse=True)
    found[suspects] = True
    found[suspects[first_of_each(group.ravel(), keys.take(pa.array(suspects)))]] = False
    return found
