"""Two processes of a launch share the images, and find what one finds, bit for bit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.stage import Stage, read_manifest
from eval import evaluate, loss
from eval.judges import features, pairs
from tests.core.launch import launch
from tests.data.pictures import encode, scene
from tests.dit.test_sample import save_run, small_dit
from tests.dit.tiny_vae import save_tiny_vae
from tests.eval.test_loss import places, subset_of
from tests.eval.test_pairs import noisy, textures, write_pairs

HELD, TRAINED, DRAWN, PAIRS = range(34), range(34, 46), 20, 7
BLOCK, CHUNK = 16, 10_000  # instead of 64 images and 64 MiB

SCRIPT = f"""
import json, os, sys
from pathlib import Path
from core.stage import DoneElsewhere
from eval import evaluate, loss
from eval.judges import features, pairs
from eval.judges.extractors import Extractor

features._BLOCK, pairs._CHUNK = {BLOCK}, {CHUNK}
made, call = [], Extractor.__call__
def counting(self, images, **more):
    found = call(self, images, **more)
    made.append(len(found))
    return found
Extractor.__call__ = counting
for name, words in json.loads(sys.argv[2]):
    try:
        assert {{"evaluate": evaluate, "loss": loss}}[name].main(words) == 0
    except DoneElsewhere:
        pass
(Path(sys.argv[1]) / f"made-{{os.environ['RANK']}}").write_text(str(sum(made)))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, its hold-outs and a subset; a model, a VAE, samples and pairs."""
    root = tmp_path_factory.mktemp("launch")
    (root / "corpus").mkdir()
    for i in (*HELD, *TRAINED):
        (root / "corpus" / f"{i:02}.png").write_bytes(encode(scene(i, 16, 16), "PNG"))
    held = {"pool": [i < 20 for i in HELD], "informative": [i > 9 for i in HELD]}
    held |= {"balanced": [False] * len(HELD), "class": [f"{i % 3}" for i in HELD]}
    pq.write_table(pa.table({**places(root / "corpus", HELD), **held}), root / "holdout.parquet")
    subset_of(root / "subset.parquet", root / "corpus", TRAINED)
    save_run(root / "run", save_tiny_vae(root / "vae", scaling_factor=1.0), small_dit())
    names = [f"{n:06d}.png" for n in range(DRAWN)]
    samples = Stage(root / "samples", "test.samples", {"sampler": "ddim"}, {})
    samples.open()
    for n, name in enumerate(names):
        (root / "samples" / name).write_bytes(encode(scene(100 + n, 16, 16), "PNG"))
    samples.finish({}, names, "")
    target = [*textures(PAIRS, 16, 16), *textures(2, 24, 16)]
    images = {"target": target, "generated": [noisy(one[None], 9.0)[0] for one in target]}
    images["condition"] = [noisy(one[None], 30.0)[0] for one in target]
    write_pairs(root / "pairs", images, task="sr")
    return root


def commands(world: Path, out: Path) -> list[tuple[str, list[str]]]:
    given = {"corpus": world / "corpus", "holdout": world / "holdout.parquet"}
    given |= {"subset": world / "subset.parquet", "vae": world / "vae", "device": "cpu"}
    common = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    judge = ["--extractor", "descriptor", "--perceptual", "efficientnet-lite0"]
    generated = ["--generated", str(world / "samples"), "--image-size", "16"]
    asked = ["--checkpoint", str(world / "run"), "--precision", "fp32", "--bins", "2"]
    asked += ["--per-bin", "2", "--batch", "5"]
    return [
        ("evaluate", [*common, *judge, *generated, "--out", str(out / "generation.json")]),
        ("evaluate", ["--pairs", str(world / "pairs"), *judge, "--device", "cpu",
                      "--out", str(out / "pairs.json")]),
        ("loss", [*common, *asked, "--out", str(out / "loss.json")]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(world: Path) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the launch: more of them round otherwise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_BLOCK", BLOCK)
        patch.setattr(pairs, "_CHUNK", CHUNK)
        for name, words in commands(world, world / "alone"):
            assert {"evaluate": evaluate, "loss": loss}[name].main(words) == 0
    torch.set_num_threads(threads)
    yield world / "alone"


def test_two_processes_share_the_images_and_find_the_same(
    world: Path, alone: Path, tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    (tmp_path / "made").mkdir()
    # What a stopped launch has left: one of the feature files.
    (tmp_path / "out" / "features").mkdir(parents=True)
    there = min((alone / "features").iterdir(), key=lambda path: path.stat().st_size)
    shutil.copy(there, tmp_path / "out" / "features")
    given = [str(script), str(tmp_path / "made"), json.dumps(commands(world, tmp_path / "out"))]
    outputs = launch([sys.executable, *given])
    for command in ("eval.evaluate", "eval.loss"):
        assert sum(f"[{command}]" in output for output in outputs) == 1  # one of the two speaks
    for name in ("generation.json", "pairs.json", "loss.json", "loss.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (alone / name).read_bytes(), name
    for name in ("generation", "pairs", "loss"):
        ours, theirs = (read_manifest(at / f"{name}.json") for at in (tmp_path / "out", alone))
        assert ours["fingerprint"] == theirs["fingerprint"]
        assert ours["made"]["cost"]["images"] == theirs["made"]["cost"]["images"] > 0
    kept, expected = (sorted((at / "features").iterdir()) for at in (tmp_path / "out", alone))
    assert [path.name for path in kept] == [path.name for path in expected]
    for one, other in zip(kept, expected, strict=True):
        left, right = (np.load(path)["features"] for path in (one, other))
        assert np.array_equal(left, right)
    made = [int((tmp_path / "made" / f"made-{rank}").read_text()) for rank in (0, 1)]
    assert min(made) >= 30
    assert sum(made) == sum(
        len(np.load(path)["features"]) for path in expected if path.name != there.name
    )
