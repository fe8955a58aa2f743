"""Which metrics see that classes are missing, and from how many images on.

Two sets of real images are drawn that share no image: once both of the same classes, once with
some classes missing from the second. The second plays the generated images. A metric that can be
trusted at this n is worse for changed classes, in every draw, with intervals that do not overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core.atomic import write_json, write_text
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage, digest_of
from data.corpus.base import Sample, keep_apart
from data.images.decode import Reject, decode_rgb
from data.reference.sets import Scenes, open_reader
from dit.model.device import pick_device
from eval.distances.manifold import class_recall
from eval.distances.measure import measure
from eval.judges.extractors import load_extractor
from eval.judges.features import features_of
from eval.studies.config import SensitivityConfig

SHARES = ("precision", "recall", "density", "coverage")
"""Metrics of which more is better; of all others less is."""
LEAST = 8


def sensitivity(config: SensitivityConfig, scenes: Scenes, stage: Stage) -> Result:
    """Write sensitivity.json and sensitivity.md."""
    for part in scenes.parts:
        keep_apart(config.out, part.corpus, part.place.where)
    labels = np.asarray(scenes.labels)
    plans = {n: _plan(labels, n, config) for n in config.n}
    device = pick_device(config.device)
    extractor = load_extractor(config.extractor, weights=config.weights, device=device)
    stage.open()
    places = [key for key, _, _ in scenes.locations]
    features = features_of(
        extractor, open_reader(scenes.specs).fetch(scenes.locations), decode=_decode,
        digest=digest_of([scenes.fingerprint, places]), total=len(places),
        cache=config.cache or config.out / "features", label="scenes",
    )  # fmt: skip
    counts: list[dict[str, Any]] = []
    with progress(total=len(plans) * config.draws, name="draws", unit="draw") as bar:
        for asked, plan in plans.items():
            n, rows = len(plan[0]["real"]), []
            for draw in plan:
                rows.append(_compare(extractor.space, features, labels, draw))
                bar.update(1)
            if not any(n == entry["n"] for entry in counts):
                counts.append({"asked": asked, "n": n, "draws": rows, "metrics": summary(rows)})
    result = {
        "images": len(labels),
        "classes": len(np.unique(labels)),
        "removed": plans[config.n[0]][0]["removed_count"],
        "extractor": extractor.fingerprint,
        "counts": counts,
    }
    text = render(result, config)
    write_json(config.out / "sensitivity.json", result)
    write_text(config.out / "sensitivity.md", text)
    print("\n" + text)
    line = f"{len(labels):,} images, n {', '.join(str(entry['n']) for entry in counts)}"
    return stage.finish({"counts": [e["n"] for e in counts]},
                        ["sensitivity.json", "sensitivity.md"], line)  # fmt: skip


def _decode(sample: Sample) -> np.ndarray:
    """An image as it is. Raises UserError naming one that cannot be used."""
    reason, detail = sample.error or ("unreadable", "")
    if sample.data is not None:
        try:
            return decode_rgb(sample.data, sample.key)
        except Reject as reject:
            reason, detail = reject.reason, reject.detail
    raise UserError(f"{sample.shard}: {sample.key}: {reason} ({detail}); take it out of the scenes")


def _plan(labels: np.ndarray, n: int, config: SensitivityConfig) -> list[dict[str, Any]]:
    """The rows of every draw at n images a side, or at the largest number that all draws allow.

    Raises UserError for too few classes or images.
    """
    classes = np.unique(labels)
    lacking = max(1, round(config.removed * len(classes)))
    if lacking >= len(classes):
        raise UserError(
            f"--images {config.images}: {len(classes)} classes, of which --removed "
            f"{config.removed:g} leaves none; give more classes"
        )
    draws = []
    for draw in range(config.draws):
        generator = np.random.default_rng([config.seed, draw])
        order = generator.permutation(len(labels))
        gone = generator.permutation(classes)[:lacking]
        draws.append((order, gone, ~np.isin(labels[order], gone)))
    while any(len(order) < 2 * n or kept[n:].sum() < n for order, _, kept in draws):
        n -= 1
        if n < LEAST:
            raise UserError(
                f"--images {config.images}: {len(labels)} images are too few for two draws of "
                f"{LEAST} without {lacking} of the classes"
            )
    return [
        {
            "real": order[:n],
            "same": order[n : 2 * n],
            "changed": order[n:][kept[n:]][:n],
            "removed": sorted(map(str, gone)),
            "removed_count": lacking,
        }
        for order, gone, kept in draws
    ]


def _compare(
    space: str, features: np.ndarray, labels: np.ndarray, draw: Mapping[str, Any]
) -> dict[str, Any]:
    """Both comparisons of one draw: the metrics, and the classes of the second."""
    real = features[draw["real"]]
    row: dict[str, Any] = {"removed": draw["removed"]}
    for kind in ("same", "changed"):
        found = measure(space, features[draw[kind]], real)
        row[kind] = {
            "frechet": {k: found[k] for k in ("name", "value", "interval_95")},
            "kernel": {k: found[f"kernel_{k}"] for k in ("name", "value", "interval_95")},
            **found["metrics"],
        }
        by_class = class_recall(features[draw[kind]], real, labels[draw["real"]])
        row[f"classes_{kind}"] = {
            group: _share([c for name, c in by_class.items() if (name in draw["removed"]) == lacks])
            for group, lacks in (("removed", True), ("kept", False))
        }
    return row


def _share(classes: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Of several classes together: recall, and generated to real share (1: as often)."""
    total = sum(entry["n_real"] for entry in classes)
    if not total:
        return None
    recalled = sum(entry["recall"] * entry["n_real"] for entry in classes)
    ratio = sum(e["generated_share"] for e in classes) / sum(e["real_share"] for e in classes)
    return {"recall": recalled / total, "generated_to_real": ratio}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each metric over the draws: means, and how often it tells the two comparisons apart.

    Args:
        rows: a draw each, with "same" and "changed": key -> name, value, interval_95 (or none).

    Returns:
        key -> name; same and changed: mean value, and mean ends of the interval; ordered: draws in
        which changed classes are worse, the first set being one; pairs: the share of all pairs of
        a same and a changed comparison, of whatever draws, in which they are (0.5: chance);
        separated: draws in which the intervals do not overlap, too (None without intervals).
    """
    result: dict[str, dict[str, Any]] = {}
    for key in rows[0]["same"]:
        sign = -1.0 if key in SHARES else 1.0
        same = np.array([row["same"][key]["value"] for row in rows])
        changed = np.array([row["changed"][key]["value"] for row in rows])
        worse = sign * (changed[:, None] - same)
        entry: dict[str, Any] = {
            "name": rows[0]["same"][key]["name"],
            "same": {"value": float(same.mean())},
            "changed": {"value": float(changed.mean())},
            "ordered": int((np.diag(worse) > 0).sum()),
            "pairs": float(((worse > 0) + 0.5 * (worse == 0)).mean()),
            "separated": None,
        }
        if "interval_95" in rows[0]["same"][key]:
            ends = {
                kind: np.array([row[kind][key]["interval_95"] for row in rows])
                for kind in ("same", "changed")
            }
            for kind, bounds in ends.items():
                entry[kind]["interval_95"] = bounds.mean(axis=0).tolist()
            better, worst = ends["same"], ends["changed"]
            apart = worst[:, 0] > better[:, 1] if sign > 0 else worst[:, 1] < better[:, 0]
            entry["separated"] = int(apart.sum())
        result[key] = entry
    return result


def render(result: Mapping[str, Any], config: SensitivityConfig) -> str:
    """The result as Markdown."""
    lines = [
        "# Which metrics see missing classes",
        "",
        f"{result['images']:,} images of {result['classes']} classes, {config.draws} draws; "
        f"changed: {result['removed']} classes are missing from the second set. Values are means",
        "over the draws, intervals 95 % over images (mean ends). *ordered*: draws in which changed",
        "classes were worse; *pairs*: the same over all pairs of draws (0.5 is chance);",
        "*separated*: draws in which the intervals did not overlap, too.",
    ]
    for entry in result["counts"]:
        lines += ["", f"## n = {entry['n']:,} a side", ""]
        if entry["n"] != entry["asked"]:
            lines += [f"{entry['asked']:,} were asked for; without the classes there are too few "
                      "images for more than this.", ""]  # fmt: skip
        lines += _table(entry["metrics"], config.draws)
        lines += ["", *_classes(entry["draws"])]
    return "\n".join(lines) + "\n"


def _table(metrics: Mapping[str, Any], draws: int) -> Iterator[str]:
    yield "| metric | same classes | changed classes | ordered | pairs | separated |"
    yield "|---|---:|---:|---:|---:|---:|"
    for entry in metrics.values():
        apart = "-" if entry["separated"] is None else f"{entry['separated']}/{draws}"
        yield (
            f"| {entry['name']} | {_cell(entry['same'])} | {_cell(entry['changed'])} "
            f"| {entry['ordered']}/{draws} | {entry['pairs']:.2f} | {apart} |"
        )


def _cell(side: Mapping[str, Any]) -> str:
    value = f"{side['value']:.4g}"
    if "interval_95" not in side:
        return value
    low, high = side["interval_95"]
    return f"{value} [{low:.4g}, {high:.4g}]"


def _classes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The classes that were taken away, and the others, in one line each."""
    for group in ("removed", "kept"):
        found = [row["classes_changed"][group] for row in rows]
        present = [entry for entry in found if entry is not None]
        if present:
            recall, ratio = (
                np.mean([entry[key] for entry in present]) for key in present[0]
            )
            yield (
                f"- Changed, {group} classes: recall {recall:.3f}; nearest to "
                f"{ratio:.2f} times as many images as their share."
            )
