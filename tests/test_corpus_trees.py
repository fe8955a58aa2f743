"""Any tree of images, in any container, is one table of keys, digests and entropies."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from data.corpus.specs import open_corpus
from data.formats.tables import read_parts
from prune.score import main as score
from tests.data.pictures import encode, scene
from tests.data.shards import images, write_arrow

KINDS = {"jpg": "JPEG", "JPG": "JPEG", "jpeg": "JPEG", "png": "PNG", "PNG": "PNG", "tif": "TIFF",
         "webp": "WEBP", "bmp": "BMP", "gif": "GIF"}  # fmt: skip
WORDS = ("tile", "50.0004_7.5678", "v1.2", "a b", "Ünï", "城市", "x,y", "q'uote", "IMG.final",
         "a.b", "0", "00", "x.tar", "name-" + "long" * 30, "café", "percent%20", "#7")  # fmt: skip


def tree(rng: random.Random) -> dict[str, bytes]:
    """Path -> encoded image: folders, dots, one stem with several suffixes, copies."""
    names: set[str] = set()
    while len(names) < rng.randint(8, 20):
        parts = [rng.choice(WORDS) for _ in range(rng.randint(1, 3))]
        parts[-1] += rng.choice(["", "", f".{rng.randint(0, 3)}", "_1"])
        if any(other.startswith("/".join(parts) + ".") for other in names):
            parts[-1] += "+"
        names.add(f"{'/'.join(parts)}.{rng.choice(list(KINDS))}")
    files = {name for name in names if not any(o.startswith(f"{name}/") for o in names)}
    return {n: encode(scene(rng.randint(0, 9)), KINDS[n.rpartition(".")[2]]) for n in sorted(files)}


def cuts(rng: random.Random, count: int) -> list[tuple[int, int]]:
    """A sequence of `count` cut into consecutive stretches, some of them empty."""
    ends = sorted(rng.randint(0, count) for _ in range(rng.randint(0, 3)))
    return list(zip([0, *ends], [*ends, count], strict=True))


def tar_bytes(rng: random.Random, files: list[tuple[str, bytes]]) -> bytes:
    """A tar of images, with a text beside some, in a dialect of tar."""
    form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    members = [*files]
    for name, _ in files:
        if rng.random() < 0.3:  # the text of an image, anywhere in the tar
            text = str(PurePosixPath(name).with_suffix(rng.choice([".txt", ".json"])))
            members.insert(rng.randint(0, len(members)), (text, b"{}"))
    pax = {"comment": "made by a test"} if form == tarfile.PAX_FORMAT else None
    stream = io.BytesIO()
    written: dict[bytes, str] = {}  # a copy may be a link to the first of its kind
    with tarfile.open(fileobj=stream, mode="w", format=form, pax_headers=pax) as tar:
        for name, data in dict(members).items():
            member = tarfile.TarInfo(rng.choice(["", "./"]) + name)
            member.size, member.mtime = len(data), rng.choice([0, 0.5])
            first = written.setdefault(data, member.name)
            if first != member.name and rng.random() < 0.5:
                member.type, member.linkname, member.size = tarfile.LNKTYPE, first, 0
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def as_folder(rng, out, files):
    for name, data in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return f"{out}"


def as_tars(rng, out, files):
    """Members in any order, in several tars, some of which are joined."""
    items = list(files.items())
    rng.shuffle(items)
    folder = rng.choice([out, out / "below"])
    folder.mkdir(parents=True)
    for i, (start, stop) in enumerate(cuts(rng, len(items))):
        whole = b"".join(
            tar_bytes(rng, items[start + first : start + end])
            for first, end in cuts(rng, stop - start)
        )
        (folder / f"{i:02d}.{rng.choice(['tar', 'TAR'])}").write_bytes(whole)
    return f"{out}?key=member"


def as_table(files, names):
    return pa.table({"image": images(*(files[n] for n in names), paths=list(names))})


def as_parquet(rng, out, files):
    names = rng.sample(list(files), len(files))
    for i, (start, stop) in enumerate(cuts(rng, len(names))):
        folder = out / rng.choice([".", "split=train"])
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(as_table(files, names[start:stop]), folder / f"{i}.parquet",
                       row_group_size=rng.choice([1, 3, 1000]))  # fmt: skip
    return f"{out}?key=path"


def as_arrow(rng, out, files):
    """save_to_disk's folder, of all its rows or, with more in the shards, of some in any order."""
    with_indices = rng.random() < 0.6
    stored = dict(files)
    if with_indices:
        stored |= {f"other-{i}.png": encode(scene(i), "PNG") for i in range(rng.randint(0, 5))}
    names = rng.sample(list(stored), len(stored))
    cut = cuts(rng, len(names))
    shards = [f"data-{i}.arrow" for i in range(len(cut))]
    for shard, (start, stop) in zip(shards, cut, strict=True):
        write_arrow(out / shard, as_table(stored, names[start:stop]))
    state = {"_data_files": [{"filename": shard} for shard in shards]}
    if with_indices:
        rows = [row for row, name in enumerate(names) if name in files]
        rng.shuffle(rows)
        write_arrow(out / "indices.arrow", {"indices": pa.array(rows, pa.uint64())})
        state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    write_arrow(out / "cache-0123.arrow", {"indices": pa.array([0], pa.uint64())})
    (out / "state.json").write_text(json.dumps(state))
    (out / "dataset_info.json").write_text("{}")
    return f"{out}?key=path"


FORMS = {"tar": as_tars, "parquet": as_parquet, "arrow": as_arrow}


def table_of(spec: str, out: Path) -> dict[str, tuple]:
    assert not score(["--corpus", spec, "--out", str(out), "--workers", "1"])
    columns = ("key", "digest", "bytes", "width", "height", "entropy", "status", "reason")
    rows = read_parts(out, columns).to_pylist()
    table = {row["key"]: tuple(row.values()) for row in rows}
    assert len(table) == len(rows)
    return table


def check_fetch(spec: str, rng: random.Random) -> None:
    """What is fetched in any order is what is read in order."""
    corpus = open_corpus(spec)
    read = [sample for shard in corpus.shards() for sample in corpus.read(shard)]
    wanted = rng.sample(read, len(read)) + rng.sample(read, 3)
    found = corpus.fetch([(s.key, s.shard, s.row) for s in wanted])
    assert list(found) == wanted


@pytest.mark.parametrize("seed", range(12))
def test_any_tree_in_any_container_gives_one_table(tmp_path, seed):
    rng = random.Random(seed)
    files = tree(rng)
    expected = table_of(as_folder(rng, tmp_path / "folder", files), tmp_path / "s-folder")
    assert set(expected) == set(files)
    assert all(row[-2] == "ok" for row in expected.values())
    for form, write in FORMS.items():
        spec = write(rng, tmp_path / form, files)
        assert table_of(spec, tmp_path / f"s-{form}") == expected, form
        check_fetch(spec, rng)


@pytest.mark.parametrize("seed", range(12))
def test_by_the_names_of_samples_every_image_is_there_or_said_to_be_ambiguous(tmp_path, seed):
    """Without key=member: a row for every image, or one that names the images and the way out."""
    rng = random.Random(seed)
    files = tree(rng)
    (tmp_path / "a.tar").write_bytes(tar_bytes(rng, list(files.items())))
    try:
        rows = table_of(f"{tmp_path}/a.tar", tmp_path / "s")
    except UserError as error:
        assert "key=member" in str(error)
        return
    found = read_parts(tmp_path / "s", ("key", "digest", "reason", "detail")).to_pylist()
    digests = [row["digest"] for row in found if not row["reason"]]
    refused = sum(int(row["detail"].split()[0]) for row in found if row["reason"])
    assert all("key=member" in row["detail"] for row in found if row["reason"])
    assert len(digests) + refused == len(files) and len(rows) == len(found)


@pytest.mark.parametrize(("fault", "images"), [
    ("tar_concatenated", 15), ("tar_dotted_names", 12), ("saved_with_indices", 10),
    ("parquet_row_group_over_2gib", 30),
])  # fmt: skip
def test_real_files_that_were_read_wrongly_once(shared_data, fault, images):
    folder = shared_data / "faults" / fault
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    corpus = open_corpus(folder)
    corpus.check()
    ends = [corpus.count(shard) - 1 for shard in corpus.shards()]
    assert sum(ends) + len(ends) == len(corpus) == images
    for shard, last in zip(corpus.shards(), ends, strict=True):
        for row in {0, last} if last >= 0 else ():
            assert all(sample.data for sample in corpus.batch(shard, row, row + 1))
