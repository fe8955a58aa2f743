"""The cells of an experiment, read from grid/*.yaml and keyed like the paper's cells."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.errors import UserError
from experiments.profiles import Profile

GRID = Path(__file__).with_name("grid")
RATIOS = "ratio"  # the file for every CORPUS_PERCENT
TASKS = ("clustering", "generation", "loss", "track", "sr", "sis")
_ROW = {
    "corpus",
    "method",
    "ratio",
    "keep",
    "reference",
    "clusters",
    "reduced",
    "paper",
    "profiles",
}
_LISTS = ("corpus", "method", "ratio", "keep", "reference", "clusters")
_FILE = {"title", "kind", "paper_tables", "tasks", "pictures", "rows"}

# What Stage I keeps where a table does not say: D30 from 85 % on (the paper's best);
# below, a share that leaves Stage II something to choose (D30 at 70 % would be the whole subset).
_KEEP = ((0.85, 0.30), (0.70, 0.50), (0.50, 0.70), (0.30, 0.85), (0.0, 1.0))
WITH_STAGE_ONE = ("rsprune", "entropy-set", "random-survivors")


@dataclass(frozen=True)
class Cell:
    """A cell family: everything that is trained and measured for one row of a table.

    Attributes:
        corpus, method: names in profiles.yaml and of prune.select.
        ratio: fraction that is dropped, in [0, 1).
        keep: fraction that Stage I keeps, in (0, 1]; 1 for methods without Stage I.
        reference: which reference set the centroids are of; 'own' for those of the pool.
        clusters: K.
        dimension: to which the embeddings are reduced before clustering; 0: not.
        tasks: what is measured, of TASKS.
        paper: fields of the family's cells in eval/paper/paper.yaml; None: the paper has none.
    """

    corpus: str
    method: str
    ratio: float
    keep: float
    reference: str
    clusters: int
    dimension: int
    tasks: tuple[str, ...]
    paper: dict[str, Any] | None
    default_clusters: bool = True

    @property
    def subset(self) -> str:
        """The subset's name without its corpus: 'rsprune-85-D30', with what is not the default."""
        name = self.method
        if self.method != "full":
            name += f"-{percent(self.ratio)}"
        if self.method in WITH_STAGE_ONE:
            name += f"-D{percent(self.keep)}"
        if self.reference not in ("main", "own", ""):
            name += f"-{self.reference}"
        if not self.default_clusters:
            name += f"-K{self.clusters}"
        if self.dimension:
            name += f"-d{self.dimension}"
        return name

    @property
    def name(self) -> str:
        """As --only takes it."""
        return f"{self.corpus}/{self.subset}"


@dataclass(frozen=True)
class Experiment:
    """A table, a figure, or a corpus at a ratio. Attributes: see grid/*.yaml."""

    name: str
    title: str
    kind: str
    paper_tables: tuple[str, ...]
    pictures: bool
    cells: tuple[Cell, ...]


def names() -> list[str]:
    """The experiments that have a script."""
    return sorted(path.stem for path in GRID.parent.glob("*.sh") if path.stem != "run")


def load(name: str, profile: Profile) -> Experiment:
    """The experiment of this name. Raises UserError for an unknown one or a wrong grid file."""
    values: dict[str, Any] = {}
    path = GRID / f"{name}.yaml"
    if match := re.fullmatch(r"([a-z0-9]+)_(\d+(?:\.\d+)?)", name):
        corpus, share = match.groups()
        if corpus not in profile.corpora or float(share) >= 100:
            raise UserError(
                f"{name}: expected CORPUS_PERCENT with a corpus of {', '.join(profile.corpora)} "
                "and the percentage that is dropped, below 100"
            )
        path = GRID / f"{RATIOS}.yaml"
        methods = profile.settings["methods"] if float(share) else ["full"]
        values = {
            "corpus": corpus, "percent": share, "ratio": round(float(share) / 100, 6),
            "methods": methods,
        }  # fmt: skip
    if not path.is_file() or path.stem == name == RATIOS:
        raise UserError(f"{name}: no such experiment; there are {', '.join(names())}")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    _known(path, found, _FILE)
    tasks = tuple(found["tasks"])
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise UserError(f"{path}: tasks {', '.join(unknown)}: expected of {', '.join(TASKS)}")
    cells: dict[str, Cell] = {}
    for row in found["rows"]:
        _known(path, row, _ROW)
        for cell in _cells(row, values, tasks, profile, path):
            cells.setdefault(cell.name, cell)
    title = found["title"].format(**{**values, "corpus": _title(values, profile)})
    return Experiment(
        name, title, found.get("kind", "table"), tuple(found["paper_tables"]),
        bool(found.get("pictures", False)), tuple(cells.values()),
    )  # fmt: skip


def only(experiment: Experiment, wanted: list[str]) -> Experiment:
    """The experiment with the cells that are named alone: CORPUS/SUBSET, or a part as FIELD=VALUE.

    Raises UserError where a word names none.
    """
    chosen: list[Cell] = list(experiment.cells)
    for word in wanted:
        name, equals, value = word.partition("=")
        if equals:
            kept = [cell for cell in chosen if str(getattr(cell, name, None)) == value]
        else:
            kept = [cell for cell in experiment.cells if cell.name in wanted]
        if not kept:
            raise UserError(
                f"--only {word}: no such cell of {experiment.name}; it has\n  "
                + "\n  ".join(cell.name for cell in experiment.cells)
            )
        chosen = kept if equals else [cell for cell in chosen if cell in kept]
    return Experiment(**{**experiment.__dict__, "cells": tuple(chosen)})


def percent(ratio: float) -> str:
    """0.85 is '85', 0.875 is '87.5'."""
    return f"{ratio * 100:.6f}".rstrip("0").rstrip(".")


def _title(values: dict[str, Any], profile: Profile) -> str:
    return profile.corpora[values["corpus"]]["title"] if values else ""


def _known(path: Path, found: dict[str, Any], fields: set[str]) -> None:
    if unknown := sorted(set(found) - fields):
        raise UserError(
            f"{path}: unknown {', '.join(unknown)}; expected of {', '.join(sorted(fields))}"
        )


def _cells(
    row: dict[str, Any],
    values: dict[str, Any],
    tasks: tuple[str, ...],
    profile: Profile,
    path: Path,
) -> Iterator[Cell]:
    """The cells of a row: one for each combination of its lists."""
    if profile.name not in row.get("profiles", [profile.name]):
        return
    lists = {field: _listed(row.get(field), values, profile.name) for field in _LISTS}
    for corpus, method, ratio, keep, reference, clusters in itertools.product(*lists.values()):
        if corpus not in profile.corpora:
            raise UserError(f"{path}: corpus {corpus}: expected of {', '.join(profile.corpora)}")
        if not 0 <= ratio < 1:
            raise UserError(f"{path}: ratio {ratio}: the fraction to drop, in [0, 1)")
        stated = keep is not None
        if method not in WITH_STAGE_ONE:
            keep = 1.0
        elif keep is None:
            keep = next(share for least, share in _KEEP if ratio >= least)
        if method == "full":
            ratio = 0.0
        if reference is None:
            reference = "own" if method in OWN else "main"
        if method in WITHOUT_CLUSTERS:
            reference = ""
        known = profile.settings["clusters"]
        yield Cell(
            corpus, method, ratio, keep, reference, clusters or known,
            profile.settings["dimension"] if row.get("reduced") else 0, tasks,
            _paper(corpus, method, ratio, keep, stated, row, clusters), clusters in (None, known),
        )  # fmt: skip


OWN = ("cluster-nearest", "a2mae", "full-set", "entropy-set")
"""Methods that cluster the pool itself."""
WITHOUT_CLUSTERS = ("full", "random", "random-survivors", "entropy")


def _listed(value: Any, values: dict[str, Any], profile: str) -> list[Any]:
    """A field's alternatives: a text in braces stands for its value, a mapping is by profile."""
    if isinstance(value, dict):
        value = value[profile]
    if isinstance(value, str) and value.startswith("{"):
        value = values[value.strip("{}")]
    return list(value) if isinstance(value, list) else [value]


def _paper(
    corpus: str,
    method: str,
    ratio: float,
    keep: float,
    stated: bool,
    row: dict[str, Any],
    clusters: int | None,
) -> dict[str, Any] | None:
    """Where the family's cells stand in the paper."""
    if "paper" in row:
        return {"corpus": corpus, **row["paper"]}
    if method == "random-survivors" or clusters is not None:
        return None
    key: dict[str, Any] = {"corpus": corpus, "method": method, "ratio": ratio}
    if method == "rsprune":  # D30 at 85 and 90 %; elsewhere the paper does not say
        key["subset"] = f"D{percent(keep)}" if stated or ratio >= 0.85 else "not stated"
    return key
