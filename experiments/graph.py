"""A picture of an experiment's stages: how the river flows, and how many jobs each stage has."""

from __future__ import annotations

from html import escape

from experiments.plan import Planned

WIDTH, HEIGHT, GAP_X, GAP_Y = 190, 46, 40, 34


def draw(planned: Planned) -> str:
    """SVG: a box for each kind of stage with its number of jobs, arrows where one reads another."""
    kind = {job.id: _kind(job.stage, job.id) for job in planned.jobs}
    counts: dict[str, int] = {}
    needs: dict[str, set[str]] = {}
    for job in planned.jobs:
        name = kind[job.id]
        counts[name] = counts.get(name, 0) + 1
        needs.setdefault(name, set()).update(kind[n] for n in job.needs if kind[n] != name)
    level: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in level:
            level[name] = 0
            level[name] = 1 + max((depth(n) for n in needs[name]), default=-1)
        return level[name]

    behind: dict[str, set[str]] = {}  # all that a stage rests on

    def rests(name: str) -> set[str]:
        if name not in behind:
            behind[name] = set(needs[name]).union(*map(rests, needs[name]))
        return behind[name]

    for name, before in needs.items():  # an arrow that a longer way says as well is left out
        needs[name] = {n for n in before if not any(n in rests(other) for other in before - {n})}
    rows: dict[int, list[str]] = {}
    for name in counts:
        rows.setdefault(depth(name), []).append(name)
    place = {
        name: (40 + n * (WIDTH + GAP_X), 60 + row * (HEIGHT + GAP_Y))
        for row, there in rows.items()
        for n, name in enumerate(there)
    }
    width = 80 + max(map(len, rows.values())) * (WIDTH + GAP_X)
    height = 80 + len(rows) * (HEIGHT + GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="40" y="32" font-size="16">{escape(planned.experiment.title)}: '
        f"{len(planned.cells)} cells, {len(planned.jobs)} jobs</text>",
    ]
    for name, before in needs.items():
        x, y = place[name]
        for other in sorted(before):
            a, b = place[other]
            x1, y1, x2, y2 = a + WIDTH / 2, b + HEIGHT, x + WIDTH / 2, y
            middle = (y1 + y2) / 2
            parts.append(
                f'<path d="M{x1:.0f} {y1:.0f} C{x1:.0f} {middle:.0f} '
                f'{x2:.0f} {middle:.0f} {x2:.0f} {y2:.0f}"'
                ' fill="none" stroke="#8a94a6"/>'
            )
    for name, (x, y) in place.items():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#e8eef7" '
            'stroke="#44546a"/>'
            f'<text x="{x + 10}" y="{y + 20}">{escape(name)}</text>'
            f'<text x="{x + 10}" y="{y + 37}" fill="#44546a">{counts[name]} jobs</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _kind(stage: str, job: str) -> str:
    """prune.embed of references, samples and pools are boxes of their own, or arrows went round."""
    label = job.rpartition("/")[2]
    if stage == "prune.embed":
        of = "reference" if label.startswith("reference") else "pool"
        return f"{stage} ({'sample' if '-candidates' in label else of})"
    if stage == "eval.evaluate":
        return f"{stage} ({'generation' if '-generation-' in label else 'pairs'})"
    return stage
