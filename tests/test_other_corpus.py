"""Commands that read a corpus through an index or scores, given another of the same names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.stage import Stage
from data import holdout
from prune import score, select
from tests.dit.tiny_vae import save_tiny_vae

N, SIZE = 40, 16


def make_corpus(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for n in range(N):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n:03}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of equal names, what is made of the first, and a VAE."""
    root = tmp_path_factory.mktemp("corpora")
    make_corpus(root / "scored", 0)
    make_corpus(root / "other", 1)
    scores, held, subset = root / "scores", root / "held.parquet", root / "subset.parquet"
    corpus = str(root / "scored")
    assert score.main(["--corpus", corpus, "--out", str(scores), "--workers", "1"]) == 0
    assert holdout.main(["--scores", str(scores), "--n", "4", "--out", str(held)]) == 0
    chosen = ["--method", "random", "--ratio", "0.2", "--scores", str(scores)]
    assert select.main([*chosen, "--holdout", str(held), "--out", str(subset)]) == 0
    save_tiny_vae(root / "vae", scaling_factor=0.5)
    samples = Stage(root / "samples", "dit.sample", {}, {})
    samples.open()
    for n in range(2):
        Image.new("RGB", (SIZE, SIZE), (n, n, n)).save(root / "samples" / f"{n:06}.png")
    samples.finish({}, [f"{n:06}.png" for n in range(2)], "")
    return root


COMMANDS: dict[str, Callable[[Path], str]] = {
    "prune.embed": lambda r: f"--scores {r}/scores --encoder descriptor --workers 1 --keep 1",
    "prune.index webdataset": lambda r: f"export {r}/subset.parquet --to webdataset",
    "prune.index parquet": lambda r: f"export {r}/subset.parquet --to parquet",
    "dit.encode": lambda r: f"--subset {r}/subset.parquet --vae {r}/vae --image-size 16",
    "dit.train_vae subset": lambda r: f"--subset {r}/subset.parquet --image-size 16 --device cpu",
    "dit.train_vae scores": lambda r: f"--scores {r}/scores --image-size 16 --device cpu",
    "eval.evaluate": lambda r: f"--generated {r}/samples --holdout {r}/held.parquet --image-size 16"
    " --extractor descriptor --device cpu",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_another_corpus_of_the_same_names_is_refused_before_anything_is_written(
    root: Path, tmp_path: Path, name: str
) -> None:
    command = importlib.import_module(name.split()[0])
    out = tmp_path / ("metrics.json" if name == "eval.evaluate" else "out")
    flags = [*COMMANDS[name](root).split(), "--corpus", str(root / "other"), "--out", str(out)]
    with pytest.raises(UserError, match=r"^'0\d\d.png': its bytes .* are not those that were scor"):
        command.main(flags)
    assert not list(tmp_path.iterdir())
