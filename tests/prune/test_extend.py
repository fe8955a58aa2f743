"""prune.score --extend: a grown corpus is scored for its new images alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from core.errors import UserError
from core.stage import read_manifest
from data.corpus import folder as corpora
from data.formats.tables import read_parts
from prune.score import main
from tests.data.pictures import encode, scene
from tests.data.shards import images, jpeg, write_arrow, write_tar


def score(corpus, out, *flags):
    assert main(["--corpus", str(corpus), "--out", str(out), "--workers", "1", *flags]) == 0
    parts = {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}
    return parts, read_manifest(out)


def blank(path):
    """Make a file unreadable as an image, without changing its name or size."""
    path.write_bytes(b"\0" * path.stat().st_size)


def tars(root, *numbers):
    for n in numbers:
        members = {f"{n}-{i}.jpg": jpeg(10 * n + i) for i in range(3)}
        members[f"{n}-bad.jpg"] = b"no image"
        write_tar(root / f"t-{n:02d}.tar", members)
    return f"{root}/t-*.tar", [root / f"t-{n:02d}.tar" for n in numbers]


def arrows(root, *numbers):
    for n in numbers:
        data = [jpeg(10 * n + i) for i in range(3)]
        paths = [f"{n}-{i}.jpg" for i in range(3)]
        columns = {"image": images(*data, paths=paths), "img_quality_score": [0.5, 0.25, None]}
        write_arrow(root / f"d-{n:02d}.arrow", columns)
    return f"{root}/d-*.arrow", [root / f"d-{n:02d}.arrow" for n in numbers]


@pytest.mark.parametrize("form", [tars, arrows])
@pytest.mark.parametrize("flags", [(), ("--statistics",)])
def test_new_shards_alone_are_read(form, flags, tmp_path):
    spec, old = form(tmp_path / "c", 1, 3)
    score(spec, tmp_path / "before", *flags)
    form(tmp_path / "c", 0, 2)  # one before all others, one in between
    fresh, manifest = score(spec, tmp_path / "fresh", *flags)
    for path in old:
        blank(path)
    grown = ("--extend", str(tmp_path / "before"), *flags)
    parts, extended = score(spec, tmp_path / "grown", *grown)
    assert parts == fresh and len(parts) == 4
    assert extended["fingerprint"] == manifest["fingerprint"]
    count = read_parts(tmp_path / "before").num_rows
    source = read_manifest(tmp_path / "before")["fingerprint"]
    assert extended["summary"].pop("extended") == {"scores": source, "images": count}
    assert extended["summary"]["timing"]["images"] == count  # as many new as old
    for summary in (extended["summary"], manifest["summary"]):
        del summary["timing"]
    assert extended["summary"] == manifest["summary"]


def test_new_files_alone_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "SHARD_FILES", 5)
    root = tmp_path / "c"
    root.mkdir()
    random = np.random.default_rng(0)
    names = [f"{n:03d}.jpg" for n in random.permutation(40)]
    for i, name in enumerate(names[:17]):
        (root / name).write_bytes(b"broken" if i == 4 else encode(scene(i), "JPEG"))
    score(root, tmp_path / "before")
    for i, name in enumerate(names[17:32], 17):
        (root / name).write_bytes(encode(scene(i), "JPEG"))
    fresh, manifest = score(root, tmp_path / "fresh")
    assert len(fresh) == 7
    for name in names[:17]:
        blank(root / name)
    parts, extended = score(root, tmp_path / "grown", "--extend", str(tmp_path / "before"))
    assert parts == fresh and extended["fingerprint"] == manifest["fingerprint"]
    assert extended["summary"]["timing"]["images"] == 15
    assert extended["summary"]["extended"]["images"] == 17
    # A stopped run continues to the same bytes.
    (tmp_path / "grown" / "manifest.json").unlink()
    (tmp_path / "grown" / "part-00003.parquet").unlink()
    again, _ = score(root, tmp_path / "grown", "--extend", str(tmp_path / "before"))
    assert again == fresh


def test_what_has_changed_is_not_extended(tmp_path):
    spec, (first, _) = tars(tmp_path / "c", 1, 3)
    score(spec, tmp_path / "before")
    tars(tmp_path / "c", 2)

    def extend(*flags, old="before", out="grown"):
        score(spec, tmp_path / out, "--extend", str(tmp_path / old), *flags)

    with pytest.raises(UserError, match="other settings: min_side: 16 there, 8 now"):
        extend("--min-side", "8")
    with pytest.raises(UserError, match=r"4 new [^;]*\n.*another --out with --extend"):
        extend(out="before")
    manifest = json.loads((tmp_path / "before" / "manifest.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text(
        json.dumps({**manifest, "stage": "prune.assign"})
    )
    with pytest.raises(UserError, match=r"made by prune\.assign"):
        extend(old="other")
    first.write_bytes(first.read_bytes() + b"\0" * 512)
    with pytest.raises(UserError, match="does not hold all that this table is of"):
        extend()
    first.unlink()
    with pytest.raises(UserError, match="does not hold all that this table is of"):
        extend()
    assert not (tmp_path / "grown").exists()

    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    score(folder, tmp_path / "files")
    (folder / "1.jpg").write_bytes(jpeg(1) + b"\0")
    with pytest.raises(UserError, match="does not hold all"):
        score(folder, tmp_path / "grown", "--extend", str(tmp_path / "files"))
