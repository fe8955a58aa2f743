"""The hash of keys against its formula, and whether it looks random."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from core import hashing
from core.hashing import hash_keys

KEYS = ["", "a", "ä/ß.jpg", "12345678", "123456789", "x" * 41, "tile_0001.png", "tile_0002.png"]


def formula(key: str, purpose: str) -> int:
    """The hash in Python's own integers."""
    data, full = key.encode(), 2**64
    h = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    h = (h ^ (len(data) * 0xBF58476D1CE4E5B9)) % full
    for at in range(0, len(data), 8):
        h = (h ^ int.from_bytes(data[at : at + 8], "little")) * 0x9FB21C651E98DF25 % full
        h ^= h >> 32
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 % full
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB % full
    return h ^ (h >> 31)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
@pytest.mark.parametrize("block", [3, 1 << 16])
def test_the_formula(kind: pa.DataType, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "BLOCK", block)
    expected = [formula(key, "p") for key in KEYS]
    whole = pa.array(KEYS).cast(kind)
    assert hash_keys(whole, "p", threads=2).tolist() == expected
    assert hash_keys(whole.slice(2, 4), "p").tolist() == expected[2:6]
    pieces = pa.chunked_array([whole.slice(5), whole.slice(0, 0), whole.slice(0, 5)])
    assert hash_keys(pieces, "p").tolist() == expected[5:] + expected[:5]
    assert hash_keys(whole, "q").tolist() != expected


def test_what_is_no_key() -> None:
    assert len(hash_keys(pa.array([], pa.string()), "p")) == 0
    assert len(hash_keys(pa.chunked_array([], pa.string()), "p")) == 0
    with pytest.raises(ValueError, match="empty entries"):
        hash_keys(pa.array(["a", None]), "p")
    with pytest.raises(TypeError, match="int64"):
        hash_keys(pa.array([1]), "p")


def test_numbered_keys_look_random() -> None:
    """Keys that count up: bits are even, neighbours independent, no two words the same."""
    n = 200_000
    words = hash_keys(pa.array([f"train/{i:07d}.jpg" for i in range(n)]), "random|0")
    assert len(np.unique(words)) == n
    bits = np.unpackbits(words.view(np.uint8).reshape(n, 8), axis=1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(n)
    u = words / 2.0**64
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 5 / np.sqrt(n)
    cells = np.bincount((u[1:] * 50).astype(int) * 50 + (u[:-1] * 50).astype(int), minlength=2500)
    expected = (n - 1) / 2500
    chi2 = ((cells - expected) ** 2 / expected).sum()  # 2499 degrees of freedom
    assert abs(chi2 - 2499) < 6 * np.sqrt(2 * 2499)
    other = hash_keys(pa.array([f"train/{i:07d}.jpg" for i in range(n)]), "random|1") / 2.0**64
    assert abs(np.corrcoef(u, other)[0, 1]) < 5 / np.sqrt(n)
