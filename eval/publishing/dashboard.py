"""W&B's dashboard of an experiment, built with wandb-workspaces.

Its sections: tables and figures, then generation, super-resolution and semantic synthesis, curves
over the samples seen with one colour for each method (the mean over its runs, between the least and
the greatest), then pruning and what it costs. Shown are the runs with the experiment's tag.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from core.atomic import write_json
from core.errors import UserError
from dit.training.tracking import SEEN
from eval.programme.plan import Job, Plan
from eval.publishing.contents import METRICS, contents_of, contents_of_folder
from eval.publishing.publish import Publisher
from eval.records.record import as_logged, read_lines

_TITLES = {
    "generation": "Generation", "sr": "Super-resolution", "sis": "Semantic synthesis",
}  # fmt: skip
_SHOWN = ("distance/value", "perceptual/value", "psnr/value", "ssim/value", "loss/value")
"""Ends of the names of a metrics file's values that have a panel."""
_ADHERENCE = ("evaluate/adherence/miou/value", "evaluate/adherence/accuracy/value")


def save_dashboard(publisher: Publisher) -> None:
    """Make the experiment's dashboard, or renew the one that was made before.

    Raises UserError offline and without wandb-workspaces. What W&B refuses is a line and no error.
    """
    if publisher.mode == "offline":
        raise UserError(
            "--dashboard: W&B keeps dashboards on its server, and no key is at hand (wandb login, "
            "or WANDB_API_KEY); eval.dashboard makes a page that needs neither"
        )
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise UserError(
            "--dashboard: needs the package wandb-workspaces (pip install wandb-workspaces)"
        ) from None
    plan, notes = publisher.plan, publisher.notes
    name = f"{plan.profile}/{plan.experiment}"
    try:
        import wandb

        given = publisher.config.entity or os.environ.get("WANDB_ENTITY")
        entity = given or str(wandb.Api().default_entity)
        made = build_dashboard(plan, entity, publisher.project)
        known = notes["dashboards"].get(name) or {}
        if known.get("entity") == entity and known.get("project") == publisher.project:
            made._internal_name, made._internal_id = known["name"], known["id"]
        made.save()
        url = made.url
    except Exception as error:  # whatever it is, everything else is there
        print(f"[eval.publish] W&B made no dashboard ({error})", file=sys.stderr)
        return
    notes["dashboards"][name] = {
        "entity": entity, "project": publisher.project, "url": url,
        "name": made._internal_name, "id": made._internal_id,
    }  # fmt: skip
    write_json(publisher.notes_file, notes)
    print(f"[eval.publish] dashboard -> {url}")


def build_dashboard(plan: Plan, entity: str, project: str) -> Any:
    """The dashboard as wandb_workspaces' Workspace, not saved. Needs no network."""
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces
    from wandb_workspaces.expr import Config, Tags

    method = panels.Config("method")

    def curve(name: str) -> Any:
        return panels.LinePlot(
            title=name, x=SEEN, y=[name], title_x="samples seen", groupby=method,
            groupby_aggfunc="mean", groupby_rangefunc="minmax", max_runs_to_show=100,
        )  # fmt: skip

    def bars(name: str) -> Any:
        return panels.BarPlot(title=name, metrics=[name], groupby=method, max_runs_to_show=100)

    def table(name: str) -> Any:
        return panels.WeavePanelSummaryTable(
            table_name=name, layout=panels.Layout(w=24, h=10)
        )

    shown = contents_of_folder(plan.folder)
    tables = [table(name) for name in shown.tables or ("table",)]
    pictures = [panels.MediaBrowser(title=name, media_keys=[name]) for name in shown.pictures]
    sections = [workspaces.Section("Tables and figures", [*tables, *pictures], is_open=True)]
    for task, title in _TITLES.items():
        if any(task in cell.tasks for cell in plan.cells):
            curves, values = _curves(plan, task), _values(plan, task)
            found = [*map(curve, curves), *map(bars, values)]
            sections.append(workspaces.Section(title, found, is_open=True))
    pruning = [
        bars("select/counts/N"), bars("select/counts/B"), bars("select/counts/candidates"),
        bars("cost/seconds"), bars("cost/gpu_hours"), table("score/entropy_bins"),
        table("select/entropy_bins"), table("assign/clusters"),
    ]  # fmt: skip
    sections.append(workspaces.Section("Pruning", pruning, is_open=True))
    profile = f"profile:{plan.profile}"
    return workspaces.Workspace(
        entity=entity, project=project, name=f"{plan.experiment} ({plan.profile})",
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis=SEEN, max_runs=100),
        runset_settings=workspaces.RunsetSettings(
            filters=[Tags().isin([plan.experiment]), Tags().isin([profile])],
            groupby=[Config("method")],
        ),
    )  # fmt: skip


def _curves(plan: Plan, task: str) -> list[str]:
    """Names of a task's curves, as far as the records know them."""
    names = [f"{task}/loss"]
    if task == "generation":
        for job in _done(plan, ("eval.track",)):
            for line in read_lines(job.out / "track.jsonl")[0]:
                logged = (name for name in as_logged(line) if "/" in name)
                names += [f"track/{name}" for name in logged if not name.endswith("/seconds")]
    return list(dict.fromkeys(names))


def _values(plan: Plan, task: str) -> list[str]:
    """Names of the values that the metrics files of a task lead with."""
    names: list[str] = []
    for job in _done(plan, METRICS):
        found = contents_of(job).values
        kinds = (f"{task}/", "loss/ema/") if task == "generation" else (f"{task}/",)
        names += [name for name in found if name.startswith(kinds) and name.endswith(_SHOWN)]
    if task == "sis":  # how well images show their masks, where a segmenter has judged them
        for job in _done(plan, ("downstream.evaluate",)):
            names += [name for name in contents_of(job).values if name in _ADHERENCE]
    return list(dict.fromkeys(names))


def _done(plan: Plan, stages: Iterable[str]) -> list[Job]:
    return [job for job in plan.jobs.values() if job.stage in stages and job.state() == "done"]
