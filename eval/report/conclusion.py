"""One passage under a table, made from its numbers: what they show, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report.measured import Row


def better_by_interval(row: Row) -> str | None:
    """The method that is better than every other beyond its interval, or None.

    Of several trainings each, paired by seed, the interval of the differences must leave out 0; of
    one training each, the intervals over images must lie apart. A row of one method has none.
    """
    cells: Mapping[str, Any] = row["cells"]
    if row["better"] not in ("lower", "higher"):
        return None
    if "paired" in row:
        return _better_paired(row)
    bounds = {
        method: cell.get("over_seeds", cell).get("interval_95") for method, cell in cells.items()
    }
    if len(bounds) < 2 or not all(bounds.values()):
        return None
    lower = row["better"] == "lower"
    for method, (low, high) in bounds.items():
        others = [bound for other, bound in bounds.items() if other != method]
        if all(high < other[0] if lower else low > other[1] for other in others):
            return method
    return None


def _better_paired(row: Row) -> str | None:
    sign = -1.0 if row["better"] == "lower" else 1.0
    for method in row["cells"]:
        wins = []
        for difference in row["paired"]:
            a, b = difference["a"], difference["b"]
            if method in (a, b):
                low, high = difference["interval_95"]
                ahead = sign if method == a else -sign
                wins.append(low > 0 if ahead > 0 else high < 0)
        if len(wins) == len(row["cells"]) - 1 and wins and all(wins):
            return str(method)
    return None


def conclusion(rows: Sequence[Row], mini: bool) -> str:
    """What the rows of `measured_rows` show, in plain words; '' where nothing was measured."""
    said = [text for text in (_holdouts(rows), _bicubic(rows), _adherence(rows)) if text]
    if not said:
        return ""
    cells = [cell for row in rows for cell in row["cells"].values()]
    trainings = {cell["over_seeds"]["n"] if "over_seeds" in cell else 1 for cell in cells}
    least, most = min(trainings), max(trainings)
    limits = "One training run each: the intervals are over images, not over other trainings"
    if least < most:
        limits = f"{least} to {most} trainings each, compared seed by seed where they have the same"
    elif most > 1:
        limits = f"{most} trainings each, compared seed by seed"
    if mini:
        limits += ", and models this small say nothing about the paper's"
    return " ".join([*said, f"{limits}."])


def _holdouts(rows: Sequence[Row]) -> str:
    """To which hold-outs each method is nearest, as they are and after the VAE."""
    plain = [row for row in rows if row["what"].startswith("Generation")]
    if not plain or max(len(row["cells"]) for row in plain) < 2:
        return ""
    after = [row for row in rows if row["what"].startswith("Both after the VAE")]
    text, differ = _nearest(plain)
    text += "."
    if after:
        shares = [row["beside"]["VAE"] / cell["value"] for row in plain if "VAE" in row["beside"]
                  for cell in row["cells"].values() if cell["value"] > 0]  # fmt: skip
        said, differ = _nearest(after)
        text += " With both sides after the VAE"
        if shares and max(shares) > 0.5:
            text += f", whose blur alone is up to {100 * max(shares):.0f} % as far"
        text += f": {said}."
    if differ:
        text += " So the choice of hold-out decides which method looks better."
    return "T" + text[1:] if text.startswith("the ") else text


def _nearest(rows: Sequence[Row]) -> tuple[str, bool]:
    """(which method is nearest to which hold-outs; whether several of them are to some)."""
    nearest: dict[str, list[str]] = {}
    for row in rows:
        winner = better_by_interval(row)
        nearest.setdefault(winner or "", []).append(row["holdout"])
    undecided = nearest.pop("", [])
    parts = [f"{name} is nearest to the {_holdout(held)}" for name, held in nearest.items()]
    if undecided:
        does = "does" if len(undecided) == 1 else "do"
        parts.append(f"the {_holdout(undecided)} {does} not tell the methods apart")
    return _list(parts, "; "), len(nearest) > 1


def _bicubic(rows: Sequence[Row]) -> str:
    row = next((r for r in rows if r["task"] == "sr" and r["metric"].startswith("PSNR")), None)
    if row is None or "bicubic" not in row:
        return ""
    values = {method: cell["value"] for method, cell in row["cells"].items()}
    best, worst = max(values.values()), min(values.values())
    figures = _list([f"{name} {value:.1f}" for name, value in values.items()])
    figures += f" against {row['bicubic']:.1f} dB"
    if worst > row["bicubic"]:
        return f"Super-resolution is nearer to the truth than its bicubic input ({figures})."
    if best < row["bicubic"]:
        return f"Super-resolution loses to its own bicubic input in PSNR ({figures})."
    return f"Super-resolution beats its bicubic input in PSNR with some methods only ({figures})."


def _adherence(rows: Sequence[Row]) -> str:
    row = next((r for r in rows if r["task"] == "sis" and r["metric"].startswith("mIoU")), None)
    if row is None or len(row["beside"]) < 2:
        return ""
    floor, ceiling = (row["beside"][name] for name in ("masks of other images", "real images"))
    cells = row["cells"]
    obey = [m for m, c in cells.items() if (c.get("interval_95") or [c["value"]])[0] > floor]
    values = [f"{method} {cell['value']:.2f}" for method, cell in cells.items()]
    figures = f"{_list(values)}; with other images' masks {floor:.2f}, real images {ceiling:.2f}"
    if len(obey) == len(cells):
        return f"Synthesis follows its mask (mIoU {figures})."
    if not obey:
        return f"Synthesis does not follow its mask (mIoU {figures})."
    names = _list(obey)
    return f"Synthesis follows its mask with {names} only (mIoU {figures})."


def _holdout(names: Sequence[str]) -> str:
    return f"{_list(names)} hold-out{'' if len(names) == 1 else 's'}"


def _list(words: Sequence[str], comma: str = ", ") -> str:
    """a, b and c."""
    if len(words) < 2 or comma != ", ":
        return comma.join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
