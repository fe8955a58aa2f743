"""Another corpus of the same names: told before anything is written, by the first that differs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from core.errors import UserError
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus

COUNT = 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(COUNT):
        (tmp_path / f"{n:03}.jpg").write_bytes(b"%d" % n)
    return tmp_path


def check(folder: Path) -> None:
    def take(rows):
        places = [(f"{n:03}.jpg", ".", n) for n in rows]
        return places, [hashlib.sha256(b"%d" % n).hexdigest() for n in rows]

    corpus = open_corpus(f"folder:{folder}")
    shard = corpus.shards()[0]
    check_corpus(
        corpus,
        COUNT,
        lambda rows: ([(key, shard, row) for key, _, row in take(rows)[0]], take(rows)[1]),
    )


def test_the_corpus_that_was_scored_passes(folder: Path) -> None:
    check(folder)


def test_the_first_key_that_differs_is_named_even_if_it_was_not_tried(folder: Path) -> None:
    for n in (3, *range(100, COUNT)):
        (folder / f"{n:03}.jpg").write_bytes(b"other")
    with pytest.raises(UserError, match=r"'003.jpg': its bytes .* are not those that were scored"):
        check(folder)


def test_an_image_that_is_gone_is_named(folder: Path) -> None:
    corpus = folder / "199.jpg"
    corpus.unlink()
    with pytest.raises(UserError, match=r"199.jpg"):
        check(folder)


def test_no_image_at_all_is_nothing_to_check(folder: Path) -> None:
    check_corpus(open_corpus(f"folder:{folder}"), 0, lambda rows: ([], []))
