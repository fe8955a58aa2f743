"""The miniature world's reference, SR and SIS sets, in every form, read by the real readers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.stage import read_manifest
from data.corpus.specs import open_corpus
from data.pairs.listing import open_sis, open_sr
from data.pairs.palettes import PALETTES
from data.reference.sets import open_reader, open_scenes
from data.unpack import main as unpack
from downstream.tasks.dataset import choose_palette, read_mask
from world.build import main as make_world
from world.convert import main as convert_corpus
from world.convert_sets import main as convert

SMALL = ["--tiles=100", "--size=16", "--broken=0", "--reference-per-class=6", "--sr-images=6",
         "--sis-pairs=12", "--pair-size=32", "--workers=1"]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world") / "w"
    assert make_world(["--out", str(out), *SMALL]) == 0
    return out


def converted(world: Path, form: str) -> Path:
    out = world.parent / form
    assert convert(["--world", str(world), "--form", form, "--out", str(out)]) == 0
    return out


def contents(spec: str | Path) -> dict[tuple[str, str], int]:
    """(label, digest) of every image of a reference, with the number of them."""
    scenes = open_scenes(spec)
    found: dict[tuple[str, str], int] = {}
    samples = open_reader(scenes.specs).fetch(scenes.locations)
    for sample, label in zip(samples, scenes.labels, strict=True):
        assert sample.data is not None
        name = label, hashlib.sha256(sample.data).hexdigest()
        found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.parametrize("form", ["reference-parquet", "reference-splits"])
def test_a_reference_is_the_same_in_every_form(world, form):
    expected = contents(world / "reference")
    assert sum(expected.values()) == 78 and len({label for label, _ in expected}) == 13
    assert contents(converted(world, form)) == expected


@pytest.mark.parametrize("form", ["second", "second-split", "second-parquet"])
def test_second_is_the_same_in_every_form(world, form):
    place = converted(world, form)
    if form == "second-parquet":
        unpack(["--parquet", str(place), "--out", str(world.parent / "unpacked")])
        place = world.parent / "unpacked"

    def images(root: Path) -> dict[str, list[tuple[str, bytes]]]:
        splits = open_sr(root).splits
        return {
            split: sorted((item.image.parent.name + item.image.name, item.image.read_bytes())
                          for item in items)
            for split, items in splits.items()
        }  # fmt: skip

    assert images(place) == images(world / "sr")
    listing = open_sis(place)
    assert listing.layout == "second"
    assert [len(listing.items(split)) for split in ("train", "val")] == [8, 4]
    items = listing.items("train")
    palette = choose_palette(items, listing.layout, listing.report, 1, True)
    assert palette.name == "second"
    ids = [palette.ids(read_mask(item), item.key)[0] for item in items]
    values = set(np.unique(np.stack(ids)).tolist())
    assert 0 in values and len(values) > 2 and max(values) < 6
    for one, two in zip(ids[:4], ids[4:], strict=True):  # both dates name the same pixels
        np.testing.assert_array_equal(one == 0, two == 0)
    assert PALETTES["second"].names[1] == "water"


@pytest.mark.parametrize("form", ["openearthmap-flat", "openearthmap-parquet"])
def test_open_earth_map_is_the_same_in_every_form(world, form):
    place = converted(world, form)
    if form == "openearthmap-parquet":
        unpack(["--parquet", str(place), "--out", str(world.parent / "oem")])
        place = world.parent / "oem"

    def pairs(root: Path, split: str) -> list[tuple[str, str, bytes, bytes]]:
        return sorted(
            (item.image.name, item.group, item.image.read_bytes(), item.mask.read_bytes())
            for item in open_sis(root).items(split)
        )

    for split in ("train", "val"):
        assert pairs(place, split) == pairs(world / "sis", split)
    counts = open_sis(converted(world, "openearthmap-flat")).report.counts
    assert counts == open_sis(world / "sis").report.counts
    assert counts["listed in train.txt, not on disk"] == 1


def test_again_is_nothing_to_do(world, capsys):
    converted(world, "second")
    capsys.readouterr()
    converted(world, "second")
    assert "already done" in capsys.readouterr().out


def test_places_may_be_relative(world, monkeypatch):
    monkeypatch.chdir(world.parent)
    assert convert_corpus(["--world", "w", "--form", "arrow", "--out", "arrow"]) == 0
    assert convert(["--world", "w", "--form", "reference-splits", "--out", "splits"]) == 0
    assert read_manifest("arrow")["files"].keys() == {"data-00000-of-00001.arrow"}
    assert len(read_manifest("splits")["files"]) == 78


def test_reference_files_are_a_corpus_too(world):
    corpus = open_corpus(world / "reference")
    assert len(corpus) == 78


def test_what_is_no_world_is_refused(world, tmp_path):
    other = converted(world, "second")
    with pytest.raises(UserError, match=r"made by world\.convert_sets, not by world\.build"):
        convert(["--world", str(other), "--form", "second", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
