"""python -m eval.table: paper | ours | difference, from the metrics files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from core.atomic import write_json, write_text
from core.errors import UserError
from core.settings import parse, science, settings
from core.stage import Stage, read_manifest, sha256_file

ARM_NAMES = {"rsprune": "RS-Prune", "random": "Random", "full": "Full", "entropy": "Stage I only"}
# The paper's metric -> ours that may be held against it: the same network, and trained.
COMPARABLE = {"FID": ("FID",), "LPIPS": ("LPIPS-alex", "LPIPS-vgg")}
PAPER = Path(__file__).with_name("paper.yaml")


@settings
class TableConfig:
    """What to tabulate."""

    experiment: str
    """Name of the experiment in eval/paper/paper.yaml, for example git10m_85."""
    run: Path
    """Run folder with metrics/<arm>-<task>.json."""
    out: Path
    """Markdown file to write; the same numbers go beside it as .json."""
    arms: tuple[str, ...] = ("rsprune", "random")
    """Selection methods to show, in order."""
    profile: Literal["paper", "mini"] = "paper"
    """mini or paper. Only values of the paper profile stand in the column that is compared."""


def main(argv: list[str] | None = None) -> int:
    config = parse(
        TableConfig,
        argv,
        prog="python -m eval.table",
        description="The experiment's table: paper | ours | difference. Cells not run say so.",
    )
    experiment = load_experiment(config.experiment)
    if not config.run.is_dir():
        raise UserError(f"--run {config.run}: no such folder")
    if config.out.suffix != ".md":
        near = config.out.with_suffix(".md")
        raise UserError(f"--out {config.out}: name a Markdown file, for example {near}")
    metrics = {
        (arm, task): config.run / "metrics" / f"{arm}-{task}.json"
        for arm in config.arms
        for task in ("generation", "sr", "sis")
    }
    inputs = {f"{arm}-{task}": sha256_file(p) for (arm, task), p in metrics.items() if p.exists()}
    inputs["paper.yaml"] = sha256_file(PAPER)
    stage = Stage(config.out, "eval.table", science(config), inputs, replace=True)
    if not stage.done():
        stage.open()
        results = {place: _read(p, place[1]) for place, p in metrics.items() if p.exists()}
        table = build(experiment, config, results, metrics)
        write_json(config.out.with_suffix(".json"), table)
        write_text(config.out, render(table))
        filled = sum(cell["ours"] is not None for row in table["rows"] for cell in row["cells"])
        stage.finish(
            {"filled": filled},
            [config.out.name, config.out.with_suffix(".json").name],
            f"{filled} of {len(table['rows']) * len(config.arms)} cells filled",
        )
    print()
    print(config.out.read_text(encoding="utf-8"))
    return 0


def _read(path: Path, task: str) -> dict[str, Any]:
    """One metrics file. Raises UserError when it is damaged or of another task."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found = result["task"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: not what eval.evaluate writes ({error}); delete it and run that again"
        ) from None
    if found != task:
        raise UserError(f"{path}: metrics of '{found}', expected '{task}'; it is misplaced")
    return result


def load_experiment(name: str) -> dict[str, Any]:
    """The experiment's rows with the paper's cells. Raises UserError for an unknown name."""
    import yaml

    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    if name not in paper["experiments"]:
        raise UserError(f"unknown experiment '{name}'; known: {', '.join(paper['experiments'])}")
    return {**paper["experiments"][name], "cells": paper["cells"], "defaults": paper["defaults"]}


def paper_value(
    experiment: dict[str, Any], row: dict[str, Any], method: str
) -> dict[str, Any] | None:
    """The paper's cell for a row and method, or None where it was not transcribed."""
    wanted = {
        "table": row["table"],
        "corpus": experiment["corpus"],
        "method": method,
        "ratio": 0.0 if method == "full" else experiment["ratio"],
        "task": row["task"],
        "metric": row["metric"],
    }
    for cell in experiment["cells"]:
        if all(cell.get(key) == value for key, value in wanted.items()):
            return cell
    return None


def build(
    experiment: dict[str, Any],
    config: TableConfig,
    results: dict[tuple[str, str], dict[str, Any]],
    files: dict[tuple[str, str], Path],
) -> dict[str, Any]:
    """Rows x arms of {paper, ours, metric, budget, file}; `ours` is None where it was not run."""
    rows = []
    for row in experiment["rows"]:
        cells = []
        for arm in config.arms:
            paper = paper_value(experiment, row, arm)
            place = (arm, row["task"])
            cell: dict[str, Any] = {
                "arm": arm,
                "paper": paper["value"] if paper else None,
                "paper_budget": {**experiment["defaults"], **paper} if paper else None,
                "ours": None,
            }
            if place in results:
                result = results[place]
                distance = result["distance"]
                part = distance if row["metric"] == "FID" else result["lpips"]
                cell |= {
                    "ours": part["value"],
                    "metric": part["name"],
                    "comparable": part["name"] in COMPARABLE[row["metric"]],
                    "count": part.get("n_generated", part.get("pairs")),
                    "sampling": result["sampling"],
                    "training": _training(config.run, arm, row["task"]),
                    "file": str(files[place]),
                }
                if "vae_floor" in result and row["metric"] == "FID":
                    cell["vae_floor"] = result["vae_floor"]["value"]
            cells.append(cell)
        rows.append({"label": row["label"], "paper_table": row["table"], "cells": cells})
    subsets = {arm: _subset(config.run, arm) for arm in config.arms}
    return {
        "experiment": config.experiment,
        "title": experiment["title"],
        "profile": config.profile,
        "arms": list(config.arms),
        "subsets": subsets,
        "rows": rows,
    }


def _training(folder: Path, arm: str, task: str) -> dict[str, Any]:
    place = folder / ("dit" if task == "generation" else task) / arm
    params = read_manifest(place)["params"] if (place / "manifest.json").exists() else {}
    return {key: params[key] for key in ("model", "steps", "batch", "seed") if key in params}


def _subset(folder: Path, arm: str) -> dict[str, Any] | None:
    index = folder / "subsets" / f"{arm}.parquet"
    if not index.exists():
        return None
    summary = read_manifest(index)["summary"]
    return {**summary, "file": str(index)}


def render(table: dict[str, Any]) -> str:
    """Markdown. In the mini profile `ours` stays 'not run' and the mini values stand apart."""
    mini = table["profile"] == "mini"
    lines = [f"# {table['title']}", ""]
    if mini:
        lines += [
            "**Mini profile.** Small models, few images: values in the *mini* columns compare with",
            "each other only, never with the paper.",
            "",
        ]
    header = ["metric"]
    for arm in table["arms"]:
        name = ARM_NAMES.get(arm, arm)
        header += [f"{name}, paper", f"{name}, ours", "difference"]
    if mini:
        header += [f"mini {ARM_NAMES.get(arm, arm)}" for arm in table["arms"]] + ["mini metric"]
    body = []
    for row in table["rows"]:
        line = [row["label"]]
        for cell in row["cells"]:
            paper, ours = cell["paper"], None if mini else cell["ours"]
            same = ours is not None and cell["comparable"]
            line += [
                "not transcribed" if paper is None else _number(paper),
                "not run" if ours is None else _number(ours) + ("" if same else " (see below)"),
                f"{ours - paper:+.4g}" if same and paper is not None else "-",
            ]
        if mini:
            line += ["not run" if c["ours"] is None else _number(c["ours"]) for c in row["cells"]]
            names = {
                f"{c['metric']}, n {c['count']}" for c in row["cells"] if c["ours"] is not None
            }
            line.append("; ".join(sorted(names)) or "-")
        body.append(line)
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    for line in [header, ["-" * w for w in widths], *body]:
        lines.append(
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        )
    lines += ["", *_notes(table)]
    return "\n".join(lines) + "\n"


def _notes(table: dict[str, Any]) -> list[str]:
    lines = [f"- {ARM_NAMES.get(arm, arm)}: {_budget(table, arm)}" for arm in table["arms"]]
    for row in table["rows"]:
        floors = {_number(c["vae_floor"]) for c in row["cells"] if "vae_floor" in c}
        if floors:
            lines.append(
                f"- {row['label']}: VAE reconstructions alone give {', '.join(sorted(floors))}."
            )
    if table["profile"] != "mini":
        lines += [
            f"- {row['label']}, {ARM_NAMES.get(cell['arm'], cell['arm'])}: ours is "
            f"{cell['metric']}, which does not compare with the paper's."
            for row in table["rows"]
            for cell in row["cells"]
            if cell["ours"] is not None and not cell["comparable"]
        ]
    lines.append(
        "- Lower is better everywhere. Paper column: arXiv 2512.23239v1 (eval/paper/paper.yaml);"
    )
    lines.append("  its budgets differ between tables, so compare orderings, not values.")
    files = [cell["file"] for row in table["rows"] for cell in row["cells"] if "file" in cell]
    if files:
        lines.append("- Values come from: " + ", ".join(f"`{f}`" for f in dict.fromkeys(files)))
    return lines


def _budget(table: dict[str, Any], arm: str) -> str:
    """Subset size, model, steps and sampler of an arm, in words."""
    parts = []
    subset = table["subsets"].get(arm)
    if subset:
        parts.append(f"{subset['counts']['B']:,} training images")
    for row in table["rows"]:
        for cell in row["cells"]:
            if cell["arm"] == arm and cell["ours"] is not None:
                training, sampling = cell["training"], cell["sampling"]
                parts.append(
                    f"{training.get('model', '?')}, {training.get('steps', '?')} steps of "
                    f"{training.get('batch', '?')}, {sampling.get('sampler', '?')} "
                    f"{sampling.get('steps', '?')} steps, {sampling.get('weights', '?')} weights, "
                    "last checkpoint"
                )
                return "; ".join(parts)
    return "; ".join([*parts, "not run"])


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
