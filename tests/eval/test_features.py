"""Features: streamed in bounded memory, in order, and kept by what they are of."""

from __future__ import annotations

import multiprocessing
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from eval.judges.extractors import Extractor, load_extractor
from eval.judges.features import features_of

SIDE = 24


def image(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def counting(digest: str = "x") -> tuple[Extractor, list[int]]:
    """Means of channels, and how many images each batch had."""
    batches: list[int] = []

    def finish(rows: list[np.ndarray]) -> np.ndarray:
        batches.append(len(rows))
        return np.stack(rows)

    def prepare(pixels: np.ndarray) -> np.ndarray:
        return pixels.mean((0, 1), dtype=np.float32)

    fingerprint = {"name": "means", "digest": digest}
    return Extractor("means", "means", fingerprint, prepare, finish, batch=4), batches


def test_streamed_features_are_those_of_the_array_in_order() -> None:
    extractor, batches = counting()
    images = np.stack([image(n) for n in range(11)])
    expected = images.mean((1, 2))
    for given in (images, iter(images), list(images)):
        found = extractor(given)
        assert found.dtype == np.float64 and np.allclose(found, expected, atol=1e-4)
    assert batches == [4, 4, 3] * 3
    slow_first = {0: 0.05}

    def decode(n: int) -> np.ndarray:
        time.sleep(slow_first.get(n, 0))
        return image(n)

    assert np.allclose(extractor(range(11), decode=decode), expected, atol=1e-4)


def test_two_batches_are_in_memory_however_many_there_are() -> None:
    extractor, _ = counting()
    gone: list[int] = []
    most = 0

    def made() -> Iterator[np.ndarray]:
        nonlocal most
        for n in range(80):
            pixels = image(n)
            weakref.finalize(pixels, gone.append, n)
            most = max(most, n + 1 - len(gone))
            yield pixels

    assert extractor(made()).shape == (80, 3)
    assert most <= 3 * extractor.batch


def test_bad_images_and_features_are_one_error() -> None:
    extractor, _ = counting()
    with pytest.raises(UserError, match="no images"):
        extractor([])
    with pytest.raises(UserError, match=r"uint8 \[h, w, 3\], got float64"):
        extractor([image(0), image(1) / 255])
    with pytest.raises(UserError, match=r"got uint8 \(24, 24\)"):
        extractor([image(0)[..., 0]])

    def broken() -> Iterator[np.ndarray]:
        yield image(0)
        raise UserError("a.png: damaged")

    with pytest.raises(UserError, match=r"a\.png: damaged"):
        extractor(broken())
    bad = Extractor("bad", "bad", {}, lambda x: x[0, 0] / np.float32(0), np.stack)
    with np.errstate(all="ignore"), pytest.raises(UserError, match="image 0 are not finite"):
        bad([image(0)])


def never() -> Iterator[np.ndarray]:
    raise AssertionError("made again")
    yield


def test_kept_features_are_not_made_again(tmp_path: Path) -> None:
    extractor, _ = counting()
    images = [image(n) for n in range(5)]
    first = features_of(extractor, images, digest="five", cache=tmp_path)
    again = features_of(extractor, never(), digest="five", cache=tmp_path)
    assert np.array_equal(first, again) and again.dtype == np.float64
    assert np.array_equal(first, extractor(images))
    for other, digest in ((extractor, "six"), (counting("y")[0], "five")):
        with pytest.raises(AssertionError, match="made again"):
            features_of(other, never(), digest=digest, cache=tmp_path)
    with pytest.raises(AssertionError, match="made again"):
        features_of(extractor, never(), digest="five", cache=None)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_made_again(tmp_path: Path, harm: str) -> None:
    extractor, batches = counting()
    images = [image(n) for n in range(5)]
    first = features_of(extractor, images, digest="five", cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    at = content.index(first.astype(np.float32).tobytes())
    harmed = {
        "cut": content[: len(content) // 2],
        "flipped": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "empty": b"",
        "other": b"no archive" * 20,
    }
    path.write_bytes(harmed[harm])
    before = len(batches)
    assert np.array_equal(features_of(extractor, images, digest="five", cache=tmp_path), first)
    assert len(batches) == before + 2 and path.read_bytes() == content
    assert np.array_equal(features_of(extractor, never(), digest="five", cache=tmp_path), first)


def _make(folder: Path, out: Path) -> None:
    extractor, _ = counting()
    images = (image(n % 50) for n in range(400))
    np.save(out, features_of(extractor, images, digest="many", cache=folder))


def test_two_processes_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    outs = [tmp_path / f"{n}.npy" for n in range(2)]
    started = [context.Process(target=_make, args=(tmp_path / "kept", out)) for out in outs]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    assert [p.suffix for p in (tmp_path / "kept").iterdir()] == [".npz"]
    kept = features_of(counting()[0], never(), digest="many", cache=tmp_path / "kept")
    assert all(np.array_equal(np.load(out), kept) for out in outs) and len(kept) == 400


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be kept there"):
        features_of(counting()[0], [image(0)], digest="d", cache=tmp_path / "file")


def test_the_descriptor_streams_as_it_describes() -> None:
    from data.images.descriptor import describe

    images = [image(n) for n in range(3)]
    extractor = load_extractor("descriptor")
    assert np.array_equal(extractor(images), describe(images).astype(np.float64))
