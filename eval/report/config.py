"""Settings of eval.table and eval.pictures. Light to import: no drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.settings import (
    place,
    renamed,
    science,
    settings,
)
from core.stage import (
    Stage,
    fingerprint,
    require_folder,
    sha256_file,
)
from eval.paper.numbers import PAPER, load_experiment

TASKS = ("generation", "loss", "sr", "sis")


def run_name(method: str, seed: int) -> str:
    """How the files of a training are named: the method, and its seed unless it is 0."""
    return f"{method}-seed{seed}" if seed else method


@settings
class TableConfig:
    """Settings of eval.table."""

    experiment: str
    """Name of the experiment in eval/paper/paper.yaml, for example git10m_85."""
    run: Path
    """Run folder with metrics/<method>-<task>.json."""
    out: Path
    """Markdown file to write; the same numbers go beside it as .json."""
    methods: tuple[str, ...] = renamed(("rsprune", "random"), "arms")
    """Selection methods to show, in order."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings; of those other than 0 the files are <method>-seed<seed>-TASK.json."""
    profile: Literal["paper", "mini"] = "paper"
    """mini or paper. Only values of the paper profile stand in the column that is compared."""

    def metrics(self) -> dict[tuple[str, str], Path]:
        """(training, task) -> its metrics file, of those that are there; see run_name."""
        folder = self.run / "metrics"
        names = [run_name(method, seed) for method in self.methods for seed in self.seeds]
        files = {(name, task): folder / f"{name}-{task}.json" for name in names for task in TASKS}
        return {cell: path for cell, path in files.items() if path.exists()}

    def stage(self) -> Stage:
        """What the command makes of what."""
        load_experiment(self.experiment)
        if not self.run.is_dir():
            raise UserError(f"--run {self.run}: no such folder")
        if self.out.suffix != ".md":
            near = self.out.with_suffix(".md")
            raise UserError(f"--out {self.out}: name a Markdown file, for example {near}")
        inputs = {f"{m}-{task}": sha256_file(path) for (m, task), path in self.metrics().items()}
        inputs["paper.yaml"] = sha256_file(PAPER)
        return Stage(self.out, "eval.table", science(self), inputs, replace=True)


@settings
class PicturesConfig:
    """Settings of eval.pictures."""

    run: Path
    """Run folder with scores/, subsets/, samples/, sr-eval/ and sis-eval/."""
    corpus: str = place()
    """Corpus that the scores are of, as prune.score takes it, for tiles beside the histogram."""
    out: Path
    """Folder for the pictures (PNG)."""
    methods: tuple[str, ...] = renamed(("rsprune", "random"), "arms")
    """Selection methods to show, in order."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        require_folder(self.out)
        inputs: dict[str, str] = {"scores": fingerprint(self.run / "scores")}
        for method in self.methods:
            inputs[f"{method} subset"] = sha256_file(self.run / "subsets" / f"{method}.parquet")
            inputs[f"{method} samples"] = fingerprint(self.run / "samples" / method)
            for task in ("sr", "sis"):
                inputs[f"{method} {task}"] = fingerprint(self.run / f"{task}-eval" / method)
        return Stage(self.out, "eval.pictures", science(self), inputs, replace=True)
