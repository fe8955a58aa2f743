"""Which finished records of a plan eval.pictures shows. Light to import."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from core.stage import Stage, fingerprint, require_folder
from eval.programme.plan import Cell, Plan, Run
from eval.report.config import PicturesConfig


@dataclasses.dataclass(frozen=True)
class Shown:
    """What there is to be seen of a corpus; of each family by its first seed that has it.

    Attributes:
        scores: of all its images (prune.score).
        assignments: the subset and the assignments of one family, for the entropy histogram.
        samples: label, samples and subset index of each family.
        pairs: sr and sis -> label and images (downstream.evaluate) of each family.
    """

    corpus: str
    scores: Path
    assignments: tuple[Path, Path] | None
    samples: tuple[tuple[str, Path, Path], ...]
    pairs: dict[str, tuple[tuple[str, Path], ...]]

    def outs(self) -> list[Path]:
        """All that is read."""
        places = [self.scores, *(self.assignments or ())]
        places += [path for _, *paths in self.samples for path in paths]
        places += [path for found in self.pairs.values() for _, path in found]
        return list(dict.fromkeys(places))


def shown(plan: Plan) -> list[Shown]:
    """What there is, by corpus; a corpus without scores, or with nothing else, is left out."""
    found = []
    for corpus in dict.fromkeys(cell.corpus for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.corpus == corpus]
        scores = _scores(plan, cells)
        if scores is None:
            continue
        kept = [_first(plan, cell, "subset", "assignments") for cell in cells]
        drawn = [(cell.label, _first(plan, cell, "samples", "subset")) for cell in cells]
        pairs = {
            task: [(cell.label, _first(plan, cell, f"{task}-images")) for cell in cells]
            for task in ("sr", "sis")
        }
        one = Shown(
            corpus,
            scores,
            next(((paths[0], paths[1]) for paths in kept if paths), None),
            tuple((label, paths[0], paths[1]) for label, paths in drawn if paths),
            {
                task: tuple((label, paths[0]) for label, paths in found if paths)
                for task, found in pairs.items()
            },
        )
        if len(one.outs()) > 1:
            found.append(one)
    return found


def stage_of(config: PicturesConfig, plan: Plan, found: Sequence[Shown]) -> Stage:
    """The pictures are drawn again whenever there is more to be seen, or other images."""
    out = config.out or plan.folder / "pictures"
    require_folder(out)
    inputs = {str(path): fingerprint(path) for one in found for path in one.outs()}
    labels = {one.corpus: [label for label, *_ in one.samples] for one in found}
    params = {"experiment": plan.experiment, "profile": plan.profile, "labels": labels}
    return Stage(out, "eval.pictures", params, inputs, replace=True)


def _scores(plan: Plan, cells: Sequence[Cell]) -> Path | None:
    for cell in cells:
        for job in plan.jobs_of(cell):
            if job.stage == "prune.score" and job.state() == "done":
                return job.out
    return None


def _first(plan: Plan, cell: Cell, *parts: str) -> list[Path]:
    """The outputs of a family's first training that has finished all of these parts."""

    def outs(run: Run) -> list[Path]:
        return [path for part in parts if (path := plan.record(run, part)) is not None]

    return next((found for run in cell.runs if len(found := outs(run)) == len(parts)), [])
