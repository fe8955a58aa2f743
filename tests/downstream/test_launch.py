"""Two processes of a launch share an evaluation's images, and draw what one draws."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from core.stage import read_manifest
from downstream import evaluate, train
from tests.core.launch import launch
from tests.downstream.conftest import evaluate_arguments, train_arguments
from tests.downstream.test_commands import pngs

SCRIPT = """
import os, sys
from pathlib import Path
from core.command import execute
from downstream.evaluate import main
from downstream.tasks import evaluate

drawn, save = [], evaluate.save_png
def saving(path, picture):
    drawn.append(path.name)
    save(path, picture)
evaluate.save_png = saving
try:
    execute(main)
finally:
    out = sys.argv[sys.argv.index("--out") + 1]
    Path(f"{out}-{os.environ['RANK']}").write_text(" ".join(drawn))
"""


def test_two_processes_go_on_and_draw_the_same_images(world: Path, tmp_path: Path) -> None:
    run, alone, out = world / "run", tmp_path / "alone", tmp_path / "out"
    assert train.main(train_arguments(world, "sr", run)) == 0
    more = ("--checkpoint", "best-test", "--batch", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the launch: more of them round otherwise
    assert evaluate.main(evaluate_arguments(world, run, "sr", alone, *more)) == 0
    torch.set_num_threads(threads)
    # As a killed run leaves it: one image of four is there.
    shutil.copytree(alone, out)
    (out / "manifest.json").unlink()
    (_, *missing) = sorted((out / "generated").iterdir())
    for path in missing:
        path.unlink()
    (tmp_path / "run.py").write_text(SCRIPT)
    words = evaluate_arguments(world, run, "sr", out, *more)
    outputs = launch([sys.executable, str(tmp_path / "run.py"), *words])
    assert "[downstream.evaluate]" in outputs[0] and not outputs[1]  # one of the two speaks
    assert pngs(out) == pngs(alone)
    ours, theirs = (read_manifest(at) for at in (out, alone))
    assert ours["fingerprint"] == theirs["fingerprint"]
    assert ours["summary"]["checkpoint"] == theirs["summary"]["checkpoint"]
    assert ours["made"]["cost"]["images"] == 3
    first, second = ((tmp_path / f"out-{rank}").read_text().split() for rank in (0, 1))
    assert len(second) == 3 * 1 and {*first, *second} == {p.name for p in missing} | {"grid.png"}
