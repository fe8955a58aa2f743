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
from eval.distances.frechet import fit, frechet_distance
from eval.evaluate import main
from eval.judges.evaluate import reconstruct
from eval.judges.extractors import load_extractor
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


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    stage_of(tmp_path / "samples", ["000000.png", "000001.png", "000002.png", "grid.png"])
    keys = [f"{n}.png" for n in range(4)]
    for n, key in enumerate(keys):
        picture(tmp_path / "corpus" / key, 10 + n)
    places = {"key": keys, "shard": ["files-00000"] * 4, "row": list(range(4))}
    places["digest"] = [sha256_file(tmp_path / "corpus" / key) for key in keys]
    pq.write_table(pa.table(places), tmp_path / "holdout.parquet")
    given = {name: tmp_path / name for name in ("corpus", "samples")}
    return [
        *("--generated", str(given["samples"]), "--corpus", str(given["corpus"])),
        *("--holdout", str(tmp_path / "holdout.parquet"), "--image-size", str(SIDE)),
        *("--extractor", "descriptor", "--device", "cpu"),
    ]


def test_samples_are_what_the_manifest_lists(tmp_path: Path, flags: list[str]) -> None:
    def value(out: str) -> dict:
        assert main([*flags, "--out", str(tmp_path / out)]) == 0
        return json.loads((tmp_path / out).read_text())["distance"]

    clean = value("clean.json")
    assert clean["n_generated"] == 3 and clean["n_real"] == 4
    picture(tmp_path / "samples" / "stray.png", 99)
    assert value("stray.json") == clean
    (tmp_path / "samples" / "000001.png").unlink()
    with pytest.raises(UserError, match=r"000001\.png: missing"):
        value("lost.json")


def test_the_floor_is_that_of_the_vaes_reconstructions(tmp_path: Path, flags: list[str]) -> None:
    vae = save_tiny_vae(tmp_path / "vae")
    assert main([*flags, "--vae", str(vae), "--out", str(tmp_path / "m.json")]) == 0
    result = json.loads((tmp_path / "m.json").read_text())
    paths = [tmp_path / "corpus" / f"{n}.png" for n in range(4)]
    real = np.stack([np.asarray(Image.open(path)) for path in paths])
    extractor = load_extractor("descriptor")
    rebuilt = reconstruct(str(vae), real, "cpu")
    expected = frechet_distance(*(fit(extractor(images)) for images in (rebuilt, real)))
    assert result["vae_floor"]["value"] == pytest.approx(expected) and expected > 0.01
    assert result["vae_floor"]["n_generated"] == result["vae_floor"]["n_real"] == 4


def test_pairs_have_psnr_and_an_interval_of_lpips(tmp_path: Path) -> None:
    """Errors of 5 and 20 grey levels: 10 log10(255^2 / 25) and 10 log10(255^2 / 400) dB."""
    names = [f"{part}/{n}.png" for part in ("generated", "target") for n in range(2)]
    pairs = stage_of(tmp_path / "pairs", names, side=64)
    for n, error in enumerate((5, 20)):
        target = np.random.default_rng(n).integers(0, 200, (64, 64, 3), np.uint8)
        Image.fromarray(target).save(pairs / "target" / f"{n}.png")
        Image.fromarray(target + np.uint8(error)).save(pairs / "generated" / f"{n}.png")
    vouch(pairs)
    flags = ["--extractor", "descriptor", "--perceptual", "efficientnet-lite0"]
    flags += ["--device", "cpu"]
    assert main(["--pairs", str(pairs), "--out", str(tmp_path / "m.json"), *flags]) == 0
    result = json.loads((tmp_path / "m.json").read_text())
    assert result["psnr_db"] == pytest.approx((34.1514 + 22.1102) / 2, abs=1e-3)
    low, high = result["lpips"]["interval_95"]
    assert 0 < low < result["lpips"]["value"] < high


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
        names = [f"{part}/{n}.png" for part in ("generated", former) for n in range(2)]
        pairs = stage_of(tmp_path / former, names, side=64)
        out = tmp_path / f"{former}.json"
        flags = ["--extractor", "descriptor", "--perceptual", "efficientnet-lite0"]
        assert main(["--pairs", str(pairs), "--out", str(out), "--device", "cpu", *flags]) == 0
        results.append(json.loads(out.read_text()))
    assert results[0] == results[1] and results[0]["lpips"]["pairs"] == 2


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
