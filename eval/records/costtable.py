"""costs.md and costs.json of an experiment. Light to import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.atomic import write_json, write_text
from core.stage import Result, Stage, digest_of, require_folder
from eval.programme.config import CostsConfig
from eval.programme.plan import Plan
from eval.records.costs import costs

_ABOUT = """\
Measured, over all sessions of each job (`core/cost.py` says what each figure is); unfinished jobs
are left out. Energy is the GPUs' alone, by the driver's counter; - is unknown."""
_ABOUT_CELLS = """\
*Own* are the jobs that no other cell of this experiment has, *shared* is an equal share of those
that several have: *total* adds up to the whole. *Alone* is what the cell takes with nothing made
before, all seeds together."""
_ABOUT_PRUNING = """\
Of *alone*: *pruning* is the scores, embeddings, centroids, assignments and selection that the
cell's subset is made from, *training* that of the DiT. *Clustering* is k-means and assignment, the
seconds of the paper's Table 4 (mean over seeds)."""


def write_costs(config: CostsConfig, plan: Plan) -> Result:
    """Write costs.md and costs.json, unless what they are made of is as it was."""
    folder = config.out or plan.folder
    require_folder(folder)
    found = costs(plan)
    params = {"experiment": plan.experiment, "profile": plan.profile}
    inputs = {"costs": digest_of(found)}
    stage = Stage(folder / "costs.json", "eval.costs", params, inputs, replace=True)
    if stage.done():
        return stage.result()
    stage.open()
    write_json(stage.out, found)
    write_text(folder / "costs.md", markdown(found))
    total = found["total"]
    return stage.finish(
        {"jobs": found["jobs"], "total": total},
        ["costs.json", "costs.md"],
        f"{found['jobs']['done']} of {found['jobs']['all']} jobs: {_hours(total)} h, "
        f"{_short(total['gpu_hours'])} GPU-hours",
    )


def markdown(found: dict[str, Any]) -> str:
    """What `costs` found, as a page."""
    jobs = found["jobs"]
    mark = "" if found["profile"] == "paper" else f" ({found['profile']})"
    stages = _table(
        "stage | jobs | hours | CPU-hours | GPU-hours | kWh | images | images/s | GPUs | "
        "peak memory, GB | peak GPU memory, GB",
        [
            [
                one["stage"], _jobs(one), _hours(one), _hours(one, "cpu_seconds"),
                _short(one["gpu_hours"]), _short(one["energy_kwh"]),
                "-" if one["images"] is None else f"{one['images']:,}",
                _short(one["images_per_s"]), _short(one["gpus"]), _short(one["peak_memory_gb"]),
                _short(one["peak_gpu_memory_gb"]),
            ]
            for one in found["stages"]
        ],
    )  # fmt: skip
    cells = _table(
        "cell | seeds | jobs | own: hours | GPU-hours | shared: hours | GPU-hours | "
        "total: hours | GPU-hours | kWh | alone: hours | GPU-hours",
        [
            [
                _name(one), str(one["seeds"]), _jobs(one),
                *(text for part in ("own", "shared", "total") for text in
                  (_hours(one[part]), _short(one[part]["gpu_hours"]))),
                _short(one["total"]["energy_kwh"]),
                _hours(one["alone"]), _short(one["alone"]["gpu_hours"]),
            ]
            for one in found["cells"]
        ],
    )  # fmt: skip
    pruning = _table(
        "cell | pruning: hours | GPU-hours | training: hours | GPU-hours | pruning : training | "
        "clustering, s",
        [
            [
                _name(one),
                *(text for part in ("pruning", "training") for text in
                  (_hours(one[part]), _short(one[part]["gpu_hours"]))),
                _ratio(one["pruning"]["seconds"], one["training"]["seconds"]),
                _short(one["clustering_seconds"]),
            ]
            for one in found["cells"]
        ],
    )  # fmt: skip
    total = found["total"]
    parts = [
        f"# Costs: {found['title']}{mark}",
        f"{jobs['done']} of {jobs['all']} jobs are finished: {_hours(total)} hours, "
        f"{_hours(total, 'cpu_seconds')} CPU-hours, {_short(total['gpu_hours'])} GPU-hours, "
        f"{_short(total['energy_kwh'])} kWh.",
        *([f"Failed: {', '.join(found['failed'])}."] if found["failed"] else []),
        _ABOUT,
        "## Stages", stages, "## Cells", _ABOUT_CELLS, cells,
        "## Pruning and training", _ABOUT_PRUNING, pruning,
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(head: str, rows: Iterable[list[str]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|---" + "|---:" * (columns - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _name(cell: dict[str, Any]) -> str:
    return f"{cell['label']} (`{cell['cell']}`)"


def _jobs(row: dict[str, Any]) -> str:
    done, every = row["jobs"]["done"], row["jobs"]["all"]
    return str(every) if done == every else f"{done} of {every}"


def _hours(row: dict[str, Any], name: str = "seconds") -> str:
    return _short(None if row[name] is None else row[name] / 3600)


def _ratio(a: float | None, b: float | None) -> str:
    return _short(a / b) if a is not None and b else "-"


def _short(value: float | None) -> str:
    """Three digits, and all of those before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"
