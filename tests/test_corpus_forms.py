"""One world in every form that a corpus can have goes through every command to the same end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.stage import read_manifest
from data.corpus.specs import open_corpus
from data.curation.holdout import read_holdout
from data.formats.index import read_index
from data.formats.tables import read_parts
from data.holdout import main as holdout
from data.images.decode import decode_rgb, decode_rgbn
from dit.encode import main as encode
from dit.latents.store import LatentStore
from dit.vae.images import bands_of, read_images
from dit.vae.listing import listing_of
from prune.assign import main as assign
from prune.centroids import main as centroids
from prune.embed import main as embed
from prune.score import main as score
from prune.select import main as select
from world.build import main as make_world
from world.convert import main as convert

ROOT = Path(__file__).parents[1]
SIZE = 48
# Each with the keys that the folder has; what every form does on its own is tested with it.
SPECS = {
    "folder": "{}/world/corpus",
    "webdataset": "{}/webdataset/train-*.tar?key=member",
    "arrow-early": "git10m:{}/arrow-early?key=path",
    "arrow": "git10m:{}/arrow",
    "parquet": "{}/parquet/*.parquet",
}


def run(main, *flags):
    assert not main([str(flag) for flag in flags]), flags


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """A world with PNG inside, and below `runs` what Stage I and II make of each form."""
    root = tmp_path_factory.mktemp("forms")
    run(make_world, "--out", root / "world", "--tiles", 140, "--size", SIZE, "--png", 1.0,
        "--workers", 1, "--broken", 1, "--reference-per-class", 3, "--sr-images", 1,
        "--sis-pairs", 1, "--write-truth-rasters")  # fmt: skip
    run(embed, "--reference", root / "world" / "reference", "--out", root / "reference",
        "--workers", 1)  # fmt: skip
    run(centroids, "--embeddings", root / "reference", "--clusters", 6, "--out", root / "centroids")
    for form in SPECS:
        if form != "folder":
            run(convert, "--world", root / "world", "--form", form, "--out", root / form,
                "--shard-rows", 45)  # fmt: skip
        river(root, root / "runs" / form, SPECS[form].format(root))
    return root


def river(root, out, spec, keep=0.5):
    """score -> hold-out -> embed -> assign -> select, by three methods."""
    scored = ("--scores", out / "scores", "--holdout", out / "holdout.parquet")
    run(score, "--corpus", spec, "--out", out / "scores", "--workers", 1)
    run(holdout, "--scores", out / "scores", "--n", 12, "--holdouts", "pool",
        "--out", out / "holdout.parquet")  # fmt: skip
    run(embed, "--corpus", spec, *scored, "--keep", keep, "--out", out / "embeddings",
        "--workers", 1)  # fmt: skip
    run(assign, "--embeddings", out / "embeddings", "--centroids", root / "centroids",
        "--out", out / "assignments")  # fmt: skip
    for method in ("rsprune", "entropy", "random"):
        more = ("--assignments", out / "assignments", "--keep", keep) if method == "rsprune" else ()
        run(select, "--method", method, *scored, *more, "--ratio", 0.8,
            "--out", out / f"{method}.parquet")  # fmt: skip


def scores(run):
    names = ("key", "digest", "bytes", "width", "height", "entropy", "status", "reason", "detail")
    rows = read_parts(run / "scores", names).to_pylist()
    table = {row.pop("key"): row for row in rows}
    assert len(table) == len(rows)
    return table


@pytest.mark.parametrize("form", [form for form in SPECS if form != "folder"])
def test_the_same_keys_have_the_same_entropies_and_make_the_same_subset(forms, form):
    folder, other = forms / "runs" / "folder", forms / "runs" / form
    expected = scores(folder)
    assert len(expected) == 140 and sum(r["entropy"] is not None for r in expected.values()) > 100
    assert scores(other) == expected
    for method in ("rsprune", "entropy", "random"):
        columns = ("key", "entropy", "cluster", "similarity", "rank", "chosen")
        subsets = []
        for made in (folder, other):
            table, _ = read_index(made / f"{method}.parquet")
            rows = table.select(columns).to_pylist()
            subsets.append(sorted(rows, key=lambda row: row["key"]))
        assert len(subsets[0]) > 15 and subsets[0] == subsets[1], method


@pytest.mark.parametrize("form", ["webdataset", "arrow-early"])
def test_encoded_and_compared_from_shards_as_from_a_folder(forms, form, tmp_path):
    from tests.dit.tiny_vae import save_tiny_vae

    vae = save_tiny_vae(tmp_path / "vae")
    stores, references = [], []
    for name in ("folder", form):
        made, spec = forms / "runs" / name, SPECS[name].format(forms)
        run(encode, "--corpus", spec, "--subset", made / "entropy.parquet", "--vae", vae,
            "--image-size", 32, "--out", tmp_path / name)  # fmt: skip
        store = LatentStore(tmp_path / name)
        order = np.argsort(store.keys)
        noise = np.zeros((len(order), *store.shape), np.float32)
        latents = store.read(order, np.zeros(len(order), bool), noise)
        stores.append((sorted(store.keys), np.asarray(latents)))
        held = listing_of(read_holdout(made / "holdout.parquet", "pool"))
        references.append(np.stack(list(read_images(open_corpus(spec), held, 32))))
    assert stores[0][0] == stores[1][0]
    np.testing.assert_allclose(stores[1][1], stores[0][1], atol=2e-2)  # other batches
    np.testing.assert_array_equal(references[0], references[1])


@pytest.fixture(scope="module")
def naip(forms):
    """The world as GeoTIFFs, and what Stage I and II make of its chips."""
    run(convert, "--world", forms / "world", "--form", "naip", "--out", forms / "naip",
        "--shard-rows", 30)  # fmt: skip
    tiles = len(list((forms / "world" / "truth").rglob("*.nir.png")))
    assert read_manifest(forms / "naip")["summary"]["images"] == tiles
    spec = f"usa1m:{forms}/naip?chip={SIZE}"
    river(forms, forms / "runs" / "naip", spec)
    return spec


def test_chips_of_the_naip_form_are_the_worlds_tiles(forms, naip):
    found = read_parts(forms / "runs" / "naip" / "scores").to_pylist()
    tiles = sorted((forms / "world" / "truth").rglob("*.nir.png"))
    names = [p.relative_to(forms / "world" / "truth").as_posix()[: -len(".nir.png")] for p in tiles]
    by_key = scores(forms / "runs" / "folder")
    ok = [row for row in found if row["status"] == "ok"]
    assert [row["entropy"] for row in ok] == [by_key[name]["entropy"] for name in names]
    assert {row["reason"] for row in found} == {"", "partial-chip", "nodata"}
    summary = read_manifest(forms / "runs" / "naip" / "scores")["summary"]
    assert summary["n"] == len(found) == summary["ok"] + sum(summary["rejected"].values())
    assert summary["rasters"] == 4 and summary["refused_rasters"] == 0 < len(names) - 90
    assert len({row["date"] for row in found}) == 4 and {row["crs"] for row in ok} == {"EPSG:26914"}
    sample = next(open_corpus(naip).fetch([(ok[3]["key"], ok[3]["shard"], ok[3]["row"])]))
    image = (forms / "world" / "corpus" / names[3]).read_bytes()
    np.testing.assert_array_equal(decode_rgb(sample.data), decode_rgb(image))
    infrared = decode_rgb(tiles[3].read_bytes())[..., 0]
    np.testing.assert_array_equal(decode_rgbn(sample.data)[..., 3], infrared)


def test_chips_do_not_depend_on_workers_and_a_second_run_opens_no_raster(forms, naip, tmp_path):
    made = forms / "runs" / "naip" / "scores"
    run(score, "--corpus", naip, "--out", tmp_path / "two", "--workers", 2)
    for path in made.glob("part-*.parquet"):
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    code = (
        "import sys; from prune.score import main; main(sys.argv[1:]);"
        "assert not {'rasterio', 'pyarrow', 'torch'} & set(sys.modules), 'heavy imports'"
    )
    flags = ["--corpus", naip, "--out", str(made), "--workers", "1"]
    subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, check=True)


def test_a_vae_of_four_bands_gets_all_of_them(forms, naip, tmp_path):
    from tests.dit.tiny_vae import save_tiny_vae

    made = forms / "runs" / "naip"
    vae = save_tiny_vae(tmp_path / "vae", in_channels=4)
    flags = ("--subset", made / "rsprune.parquet", "--vae", vae, "--image-size", 32)
    run(encode, "--corpus", naip, *flags, "--out", tmp_path / "latents")
    table, _ = read_index(made / "rsprune.parquet")
    assert LatentStore(tmp_path / "latents").rows == table.num_rows
    images = np.stack(list(read_images(open_corpus(naip), listing_of(table), 32, bands=4)))
    assert images.shape == (table.num_rows, 32, 32, 4)
    held = listing_of(read_holdout(made / "holdout.parquet", "pool"))
    assert bands_of(open_corpus(naip), held) == 4
    with pytest.raises(UserError, match="has four bands"):
        next(read_images(open_corpus(naip), held, 32))
    other = ("--corpus", SPECS["folder"].format(forms), "--vae", vae, "--image-size", 32)
    subset = forms / "runs" / "folder" / "entropy.parquet"
    with pytest.raises(UserError, match="needs a corpus of four-band chips"):
        run(encode, *other, "--subset", subset, "--out", tmp_path / "no")


def test_a_world_without_infrared_is_told_how_to_get_it(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").touch()
    with pytest.raises(UserError, match="make the world with --write-truth-rasters"):
        run(convert, "--world", tmp_path, "--form", "naip", "--out", tmp_path / "n")


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_no_command_writes_among_the_images(forms, form, tmp_path):
    import shutil

    root = tmp_path / "c"
    source = forms / ("world/corpus" if form == "folder" else "arrow")
    shutil.copytree(source, root)
    made = forms / "runs" / ("folder" if form == "folder" else "arrow")
    out, corpus = root / "made", ("--corpus", root)
    for main, flags in (
        (score, (*corpus, "--out", out)),
        (embed, (*corpus, "--scores", made / "scores", "--out", out)),
    ):
        with pytest.raises(UserError, match="lies inside --corpus"):
            run(main, *flags)
    assert not out.exists()


COMMANDS = ("prune.score", "prune.embed", "prune.judge", "prune.compare", "prune.stability",
            "prune.index", "dit.encode", "dit.train_vae", "eval.evaluate",
            "eval.track")  # fmt: skip


def test_every_command_keeps_a_specification_as_it_is_written():
    """A path would lose what is in it: 'git10m:/a//b' is not 'git10m:/a/b', nor is it a folder."""
    code = (
        "import dataclasses, importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        "    modules = (module, sys.modules[module.main.__module__])\n"
        "    configs = [v for m in modules for k, v in vars(m).items() if k.endswith('Config')]\n"
        "    fields = {f.name: f for c in configs for f in dataclasses.fields(c)}\n"
        "    field = fields['corpus']\n"
        "    assert 'Path' not in str(field.type) and field.metadata['location'], name\n"
    )
    subprocess.run([sys.executable, "-c", code, *COMMANDS], cwd=ROOT, check=True)
    sources = [p for room in ("prune", "dit", "eval", "downstream", "data")
               for p in (ROOT / room).rglob("*.py")]  # fmt: skip
    lines = [line for p in sources for line in p.read_text().splitlines()]
    assert not [line for line in lines if line.startswith("    corpus: Path")]
