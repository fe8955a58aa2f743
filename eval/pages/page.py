"""The dashboard's page: gathered, rendered, written; and written again while jobs run."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from core.atomic import write_text
from core.errors import UserError
from core.manifest import digest_of, fingerprint, manifest_path, sha256_file
from core.settings import science
from core.stage import Result, Stage, run_stage
from eval.pages import collect
from eval.pages.charts import plot
from eval.pages.config import DashboardConfig
from eval.plots.read import labels
from eval.programme.plan import Plan

HERE = Path(__file__).parent
PARTS = ("dashboard.html.j2", "dashboard.css", "dashboard.js")
TASKS = {
    "samples": "Generated images",
    "infrared": "Generated images in colour infrared",
    "sr": "Super-resolution",
    "sis": "Semantic image synthesis",
}
ROWS = {
    "samples": "samples of the first seed, from the same noise",
    "infrared": "the same samples with near infrared, red and green as red, green and blue",
    "sr": "low resolution, generated and real, from top to bottom",
    "sis": "mask, generated and real, from top to bottom",
}
GONE = 2  # looks at which no job runs, after which --watch ends


def dashboard(config: DashboardConfig) -> Result:
    """Write the page; with --watch again and again until no job runs any more."""
    result = _write(config, reload=0)
    quiet, last = 0, ""
    while config.watch and quiet < GONE:
        plan = config.plan()
        states = collect.states_of(plan)
        quiet = 0 if "running" in states.values() else quiet + 1
        found = gather(plan, _folder(config, plan))
        if (now := _digest(found)) != last:
            page = render(plan, found, reload=max(2, round(config.watch)))
            write_text(_folder(config, plan) / "dashboard.html", page)
            last = now
            counts = ", ".join(f"{n} {state}" for state, n in found["progress"]["counts"].items())
            print(f"[eval.dashboard] {counts}", flush=True)
        time.sleep(config.watch)
    return _write(config, reload=0) if config.watch else result


def _folder(config: DashboardConfig, plan: Plan) -> Path:
    return config.out or plan.folder


def _write(config: DashboardConfig, reload: int) -> Result:
    plan = config.plan()
    folder = _folder(config, plan)
    out = folder / "dashboard.html"
    found = gather(plan, folder)
    inputs = {"records": _digest(found), **{n: sha256_file(HERE / n) for n in PARTS}}

    def make(stage: Stage) -> Result:
        stage.open()
        write_text(out, render(plan, found, reload))
        size = out.stat().st_size
        counts = found["progress"]["counts"]
        line = f"{counts['done']} of {found['progress']['total']} jobs done, {size / 1e3:,.0f} kB"
        return stage.finish({"bytes": size, "counts": counts}, [out.name], line)

    return run_stage(Stage(out, "eval.dashboard", science(config), inputs, replace=True), make)


def _digest(found: dict[str, Any]) -> str:
    return digest_of(json.loads(json.dumps(found, default=vars)))


def gather(plan: Plan, folder: Path) -> dict[str, Any]:
    """All that the page shows but the pictures, of which it has the fingerprints."""
    states = collect.states_of(plan)
    names = labels(plan.cells)
    drawn = _figures(plan.folder)
    table = plan.folder / "table.md"
    return {
        "title": plan.title, "experiment": plan.experiment, "profile": plan.profile,
        "command": plan.command,
        "progress": collect.progress(plan, states),
        "grid": collect.grid(plan, states),
        "failures": collect.failures(plan, states),
        "table": table.read_text(encoding="utf-8") if table.is_file() else "",
        "charts": collect.charts(plan),
        "costs": collect.costs(plan, states),
        "settings": collect.settings(plan),
        "links": collect.links(plan.folder),
        "base": "" if folder == plan.folder else f"{os.path.relpath(plan.folder, folder)}/",
        "pictures": [
            {"cell": cell.name, "name": names[cell.name], "corpus": cell.corpus, "task": task,
             "folder": str(place), "made": _fingerprint(job.out)}
            for cell, task, place, job in collect.image_jobs(plan)
        ],
        "figures": {str(path): sha256_file(path) for path in drawn},
    }  # fmt: skip


def _fingerprint(out: Path) -> str | None:
    try:
        return str(fingerprint(out))
    except UserError:  # done by a note of the runner's, say
        return None


def _figures(folder: Path) -> list[Path]:
    """The figures that eval.figures drew last, in its order."""
    try:
        record = json.loads((folder / "figures" / "figures.json").read_text(encoding="utf-8"))
        names = [file for files in record["figures"].values() for file in files]
    except (OSError, ValueError, KeyError, AttributeError):
        return []
    files = (folder / "figures" / name for name in names if name.endswith(".png"))
    return [path for path in files if path.is_file()]


def render(plan: Plan, found: dict[str, Any], reload: int) -> str:
    """The page as one HTML document that asks for nothing else.

    Args:
        plan: of the experiment.
        found: what `gather` returned.
        reload: seconds after which the browser loads it again; 0: never.
    """
    import jinja2
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["hours"] = hours
    environment.filters["number"] = number
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    pictures, left_out = _pictures(found["pictures"])
    made_here = ("table", "pictures", "charts", "figures")
    return environment.get_template(PARTS[0]).render(
        **{key: value for key, value in found.items() if key not in made_here},
        columns=collect.columns(found["costs"]),
        reload=reload,
        written=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        style=Markup((HERE / "dashboard.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "dashboard.js").read_text(encoding="utf-8")),
        table=Markup(_below(markdown.render(found["table"]))),
        charts=[{**chart, **plot(chart["lines"], chart["log_y"])} for chart in found["charts"]],
        pictures=pictures,
        left_out=left_out,
        figures=[(Path(path).stem, _figure(Path(path))) for path in found["figures"]],
        rows=ROWS,
        letters={"done": "D", "running": "R", "failed": "F", "missing": "-"},
    )  # fmt: skip


def _below(html: str) -> str:
    """Headings two levels down, below the page's own; tables in boxes that scroll by themselves."""
    for level in (4, 3, 2, 1):
        html = html.replace(f"<h{level}>", f"<h{level + 2}>").replace(
            f"</h{level}>", f"</h{level + 2}>"
        )
    box = '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
    return html.replace("<table>", box).replace("</table>", "</table></div>")


def _pictures(wanted: list[dict[str, Any]]) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Task -> its grids, as many as fit; and how many did not."""
    from eval.judges.config import target_folder
    from eval.pages import images

    found: dict[str, list[dict[str, Any]]] = {}
    size = left_out = 0
    for one in wanted:
        folder = Path(one["folder"])
        if one["task"] in ("samples", "infrared"):
            uri = images.samples_grid(folder)
        else:
            target = target_folder(folder) if manifest_path(folder).exists() else "target"
            uri = images.pairs_grid(folder, target)
        if uri and size + len(uri) <= images.MOST_BYTES:
            size += len(uri)
            found.setdefault(TASKS[one["task"]], []).append({**one, "uri": uri})
        else:
            left_out += bool(uri)
    return found, left_out


def _figure(path: Path) -> str:
    from eval.pages import images

    return images.figure(path)


def hours(value: float | None) -> str:
    """Hours for people: 12.3 h, 4.5 min, 8 s."""
    if value is None:
        return "-"
    for size, unit in ((1.0, "h"), (1 / 60, "min")):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value * 3600:.0f} s"


def number(value: float | None, places: int = 1) -> str:
    """A number with commas; '-' where nothing is known."""
    return "-" if value is None else f"{value:,.{places}f}"
