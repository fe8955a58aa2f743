"""The evaluation command: what it counts as a sample, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import Stage, sha256_file
from data.formats.index import write_index
from eval.distances.frechet import fit, frechet_distance
from eval.evaluate import main
from eval.judges.extractors import Extractor, load_extractor
from eval.judges.generation import reconstructed
from eval.judges.images import names_of
from tests.dit.tiny_vae import save_tiny_vae
from tests.vouch import vouch

SIDE = 32


def picture(path: Path, seed: int, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def stage_of(folder: Path, names: list[str], side: int = SIDE) -> Path:
    stage = Stage(folder, "test.samples", {"sampler": "ddim", "task": "sr"}, {})
    stage.open()
    for seed, name in enumerate(names):
        picture(folder / name, seed, side)
    stage.finish({}, names, f"{len(names)} images")
    return folder


N = 12  # images of the corpus; a third are of no hold-out


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Five samples; a corpus with hold-outs pool (0-3), balanced (2-5), informative (4-7)."""
    stage_of(tmp_path / "samples", [*(f"{n:06d}.png" for n in range(5)), "grid.png"])
    keys = [f"{n}.png" for n in range(N)]
    for n, key in enumerate(keys):
        picture(tmp_path / "corpus" / key, 10 + n)
    rows = pa.table({
        "key": keys, "shard": ["files-00000"] * N, "row": list(range(N)),
        "digest": [sha256_file(tmp_path / "corpus" / key) for key in keys],
    })  # fmt: skip
    held = rows.slice(0, 8)
    for name, first in (("pool", 0), ("balanced", 2), ("informative", 4)):
        held = held.append_column(name, pa.array([first <= n < first + 4 for n in range(8)]))
    classes = ["sea" if n % 2 else "port" for n in range(8)]
    held = held.append_column("class", pa.array(classes))
    pq.write_table(held, tmp_path / "holdout.parquet")
    write_subset(tmp_path / "subset.parquet", rows.slice(8), {"name": "sscd", "weights": "0"})
    return [
        *("--generated", str(tmp_path / "samples"), "--corpus", str(tmp_path / "corpus")),
        *("--holdout", str(tmp_path / "holdout.parquet"), "--image-size", str(SIDE)),
        *("--extractor", "descriptor", "--device", "cpu"),
    ]


def write_subset(path: Path, rows: pa.Table, encoder: dict | None) -> None:
    """A finished subset index of these rows, chosen by an encoder."""
    n = rows.num_rows
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {"entropy": [1.0] * n, "cluster": [0] * n, "similarity": [0.5] * n,
                "rank": list(range(n)), "chosen": ["quota"] * n}  # fmt: skip
    stage = Stage(path, "prune.select", {}, {})
    stage.open()
    about = {"method": "rsprune", "params": {}, "inputs": {}, "encoder": encoder, "code": "0"}
    write_index(path, pa.table(columns), {**about, "counts": {"N": n, "B": n}})
    stage.finish({"counts": {"N": n, "B": n}}, [path.name], "")


def real(tmp_path: Path, *numbers: int) -> np.ndarray:
    return np.stack([np.asarray(Image.open(tmp_path / "corpus" / f"{n}.png")) for n in numbers])


def metrics(flags: list[str], out: Path, *more: str) -> dict:
    assert main([*flags, *more, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_samples_are_what_the_manifest_lists(tmp_path: Path, flags: list[str]) -> None:
    clean = metrics(flags, tmp_path / "clean.json")["holdouts"]
    picture(tmp_path / "samples" / "stray.png", 99)
    assert metrics(flags, tmp_path / "stray.json")["holdouts"] == clean
    (tmp_path / "samples" / "000001.png").unlink()
    (tmp_path / "features").rename(tmp_path / "former")
    with pytest.raises(UserError, match=r"000001\.png: missing"):
        metrics(flags, tmp_path / "lost.json")


def test_every_holdout_has_its_distance_with_equal_counts(
    tmp_path: Path, flags: list[str]
) -> None:
    extractor = load_extractor("descriptor")
    samples = [tmp_path / "samples" / f"{n:06d}.png" for n in range(5)]
    drawn = extractor(np.stack([np.asarray(Image.open(path)) for path in samples]))
    subset = ["--subset", str(tmp_path / "subset.parquet")]
    found = metrics(flags, tmp_path / "m.json", *subset)["holdouts"]
    assert list(found) == ["pool", "balanced", "informative"]
    training = extractor(real(tmp_path, *range(8, N)))
    for name, first in (("pool", 0), ("balanced", 2), ("informative", 4)):
        entry = found[name]
        held = extractor(real(tmp_path, *range(first, first + 4)))
        assert entry["distance"]["n_generated"] == entry["distance"]["n_real"] == 4
        expected = frechet_distance(fit(drawn[:4]), fit(held))
        assert entry["distance"]["value"] == pytest.approx(expected)
        assert entry["distance"]["lead"] == "kernel" and "of 5 generated" in entry["note"]
        # The floor is over the training images in the order of their keys' hash, four of four.
        floor = frechet_distance(fit(training), fit(held))
        assert entry["subset_floor"]["value"] == pytest.approx(floor)
        assert set(entry["classes"]) == {"sea", "port"}


def test_the_floor_is_that_of_the_vaes_reconstructions(tmp_path: Path, flags: list[str]) -> None:
    vae = save_tiny_vae(tmp_path / "vae")
    result = metrics(flags, tmp_path / "m.json", "--vae", str(vae))
    held, extractor = real(tmp_path, *range(4)), load_extractor("descriptor")
    rebuilt = np.stack(list(reconstructed(str(vae), iter(held), "cpu")))
    expected = frechet_distance(*(fit(extractor(images)) for images in (rebuilt, held)))
    floor = result["holdouts"]["pool"]["vae_floor"]
    assert floor["value"] == pytest.approx(expected) and expected > 0.01
    assert floor["n_generated"] == floor["n_real"] == 4
    samples = [tmp_path / "samples" / f"{n:06d}.png" for n in range(4)]
    drawn = extractor(np.stack([np.asarray(Image.open(path)) for path in samples]))
    both = frechet_distance(fit(drawn), fit(extractor(rebuilt)))
    after = result["holdouts"]["pool"]["after_vae"]["distance"]
    assert after["value"] == pytest.approx(both) and both != pytest.approx(expected)


def test_copies_of_training_images_show(tmp_path: Path, flags: list[str]) -> None:
    subset = ["--subset", str(tmp_path / "subset.parquet")]
    apart = metrics(flags, tmp_path / "apart.json", *subset)["authenticity"]
    assert set(apart) == {"descriptor", "pixels"}
    for n in range(5):
        copied = tmp_path / "corpus" / f"{8 + n % 4}.png"
        (tmp_path / "samples" / f"{n:06d}.png").write_bytes(copied.read_bytes())
    vouch(tmp_path / "samples")
    copies = metrics(flags, tmp_path / "copies.json", *subset)["authenticity"]
    assert [copies[space]["authentic"]["value"] for space in apart] == [0.0, 0.0]


def test_a_judge_does_not_judge_what_it_chose(tmp_path: Path, flags: list[str]) -> None:
    rows = pq.read_table(tmp_path / "subset.parquet")
    own = {"name": "descriptor", "weights": None}
    write_subset(tmp_path / "own.parquet", rows.select(["key", "shard", "row", "digest"]), own)
    given = ["--subset", str(tmp_path / "own.parquet")]
    with pytest.raises(UserError, match="--extractor descriptor: its features chose the subset"):
        metrics(flags, tmp_path / "m.json", *given)
    assert not (tmp_path / "m.json").exists()
    result = metrics(flags, tmp_path / "m.json", *given, "--allow-chooser")
    assert result["chosen_by"]["name"] == "descriptor" and "chose" in result["remarks"][0]
    names = [f"{part}/{n}.png" for part in ("generated", "target") for n in range(4)]
    stage_of(tmp_path / "pairs", names, side=64)
    paired = ["--pairs", str(tmp_path / "pairs"), "--perceptual", "efficientnet-lite0"]
    paired += ["--extractor", "descriptor", "--device", "cpu", *given]
    with pytest.raises(UserError, match="--extractor descriptor: its features chose the subset"):
        metrics(paired, tmp_path / "p.json")
    result = metrics(paired, tmp_path / "p.json", "--allow-chooser")
    assert result["chosen_by"]["name"] == "descriptor" and "chose" in result["remarks"][0]
    other = metrics(flags, tmp_path / "o.json", "--subset", str(tmp_path / "subset.parquet"))
    assert other["chosen_by"]["name"] == "sscd" and "remarks" not in other


def test_features_are_made_once(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*flags, "--subset", str(tmp_path / "subset.parquet")]
    first = metrics(given, tmp_path / "first.json")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("features were made again")

    monkeypatch.setattr(Extractor, "__call__", fail)
    assert metrics(given, tmp_path / "again.json") == first


def test_pairs_have_psnr_and_an_interval_of_lpips(tmp_path: Path) -> None:
    """Errors of 5 and 20 grey levels: 10 log10(255^2 / 25) and 10 log10(255^2 / 400) dB."""
    names = [f"{part}/{n}.png" for part in ("generated", "target") for n in range(4)]
    pairs = stage_of(tmp_path / "pairs", names, side=64)
    for n, error in enumerate((5, 20, 5, 20)):
        target = np.random.default_rng(n).integers(0, 200, (64, 64, 3), np.uint8)
        Image.fromarray(target).save(pairs / "target" / f"{n}.png")
        Image.fromarray(target + np.uint8(error)).save(pairs / "generated" / f"{n}.png")
    vouch(pairs)
    flags = ["--extractor", "descriptor", "--perceptual", "efficientnet-lite0", "--device", "cpu"]
    assert main(["--pairs", str(pairs), "--out", str(tmp_path / "m.json"), *flags]) == 0
    result = json.loads((tmp_path / "m.json").read_text())
    assert result["psnr"]["value"] == pytest.approx((34.1514 + 22.1102) / 2, abs=1e-3)
    for kind in ("perceptual", "psnr", "ssim"):
        low, high = result[kind]["interval_95"]
        assert 0 < low < result[kind]["value"] < high and result[kind]["pairs"] == 4
    assert "bicubic" not in result and "adherence" not in result
    assert result["checkpoint_rule"] == "last"


def test_pairs_named_grid_count(tmp_path: Path) -> None:
    names = [f"{part}/{name}.png" for part in ("generated", "target") for name in ("a", "grid")]
    folder = stage_of(tmp_path / "pairs", [*names, "grid.png"])
    picture(folder / "generated" / "stray.png", 99)
    assert names_of(folder, "generated") == ["a.png", "grid.png"]
    with pytest.raises(UserError, match="lists no images in condition"):
        names_of(folder, "condition")


def test_pairs_of_before_are_read(tmp_path: Path) -> None:
    """target/ was called reference/."""
    results = []
    for former in ("target", "reference"):
        names = [f"{part}/{n}.png" for part in ("generated", former) for n in range(4)]
        pairs = stage_of(tmp_path / former, names, side=64)
        out = tmp_path / f"{former}.json"
        judges = ["--extractor", "descriptor", "--perceptual", "efficientnet-lite0"]
        assert main(["--pairs", str(pairs), "--out", str(out), *judges]) == 0
        results.append(json.loads(out.read_text()))
    assert results[0] == results[1] and results[0]["perceptual"]["pairs"] == 4


def test_another_image_of_the_same_name_is_refused(tmp_path: Path, flags: list[str]) -> None:
    picture(tmp_path / "corpus" / "2.png", 77)
    with pytest.raises(UserError, match=r"'2\.png': its bytes .* are not those that were scored"):
        main([*flags, "--out", str(tmp_path / "metrics.json")])


def test_a_finished_stage_answers_without_what_is_slow_to_import(
    tmp_path: Path, flags: list[str]
) -> None:
    given = [*flags, "--out", str(tmp_path / "metrics.json")]
    assert main(given) == 0
    code = (
        "import sys; from eval.evaluate import main; assert main(sys.argv[1:]) == 0\n"
        "slow = {'torch', 'diffusers', 'lpips', 'cleanfid', 'PIL', 'matplotlib'} & set(sys.modules)"
        "\nassert not slow, slow"
    )
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", code, *given]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "already done" in done.stdout, done.stderr


def test_bad_settings_are_one_error(tmp_path: Path, flags: list[str]) -> None:
    out = ["--out", str(tmp_path / "metrics.json")]
    vae = save_tiny_vae(tmp_path / "vae4", in_channels=4)
    (tmp_path / "bad.parquet").write_text("x")
    for more, message in (
        (["--holdout", str(tmp_path / "none.parquet")], "none.parquet: no such file"),
        (["--holdout", str(tmp_path / "bad.parquet")], "bad.parquet: damaged"),
        (["--image-size", "0"], "--image-size 0"),
        (["--vae", str(vae)], "takes 4 bands"),
        (["--device", "nowhere"], "--device nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            main([*flags, *out, *more])
