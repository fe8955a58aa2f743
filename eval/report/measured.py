"""What a run measured, row by row: each with its interval and what it is to be read beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data.curation.config import HOLDOUTS
from eval.report.value import Result, lead

Row = dict[str, Any]
Training = tuple[str, int]
"""A family, by the label of its row, and the seed of one of its trainings."""
Found = Mapping[Training, Result]


def measured_rows(results: Mapping[tuple[str, int, str], Result]) -> list[Row]:
    """The rows of what is there, in the order of the table.

    Each has task, what (in words), metric (its name), better ('lower', 'higher' or a value), scale
    (the factor that values are shown times), cells (training -> value, interval_95, n) and beside:
    words -> value that the cells are to be read against. Hold-out rows have `holdout` too.

    Args:
        results: (label, seed, task) -> metrics file; the tasks are generation, loss, sr and sis.
    """
    by_task: dict[str, dict[Training, Result]] = {
        task: {(label, seed): result for (label, seed, of), result in results.items() if of == task}
        for task in ("generation", "loss", "sr", "sis")
    }
    rows = [*_generation(by_task["generation"]), *_loss(by_task["loss"])]
    for task in ("sr", "sis"):
        rows += _pairs(task, by_task[task])
    return rows


def _row(task: str, what: str, metric: str, better: str, **more: Any) -> Row:
    row = {"task": task, "what": what, "metric": metric, "better": better}
    return {**row, "scale": 1.0, "cells": {}, "beside": {}, **more}


def _generation(found: Found) -> Iterator[Row]:
    """The lead distance to each hold-out with its floors; classes; authenticity."""
    there = [n for n in HOLDOUTS if any(n in r["holdouts"] for r in found.values())]
    for after in (False, True):
        for holdout in there:
            entries = {method: result["holdouts"].get(holdout) for method, result in found.items()}
            if after:
                entries = {m: (entry or {}).get("after_vae") for m, entry in entries.items()}
            row = _distances({m: entry for m, entry in entries.items() if entry}, found)
            what = f"{holdout} hold-out"
            row["what"] = f"Both after the VAE, {what}" if after else f"Generation, {what}"
            if row["cells"]:
                yield {**row, "holdout": holdout}
    for holdout in there:
        row = _row("generation", "", "mean recall of classes", "higher", holdout=holdout)
        for method, result in found.items():
            entry = result["holdouts"].get(holdout, {})
            # A real image is seldom within the reach of blurred ones, whatever its class.
            classes = entry.get("after_vae", entry).get("classes") or entry.get("classes")
            if not classes:
                continue
            recalls = {label: entry["recall"] for label, entry in classes.items()}
            least = min(recalls, key=lambda label: recalls[label])
            row["what"] = f"Scene classes generated, of {len(classes)} ({holdout} hold-out)"
            row["what"] += ", both after the VAE" * ("classes" in entry.get("after_vae", {}))
            row["cells"][method] = {"value": sum(recalls.values()) / len(recalls)}
            row["beside"].setdefault(f"{method[0]}'s lowest, {least}", recalls[least])
        if row["cells"]:
            yield row
    spaces = dict.fromkeys(s for r in found.values() for s in r.get("authenticity", {}))
    for space in spaces:
        row = _row("generation", f"Copies, in {space}", "nearer to training than to unseen", "0.5")
        for method, result in found.items():
            entry = result.get("authenticity", {}).get(space)
            if entry is not None:
                share = entry["nearer_to_training"]
                row["cells"][method] = {k: share[k] for k in ("value", "interval_95")}
                row["beside"].setdefault(f"real images for {method[0]}", share["real"])
        yield row


def _distances(entries: Mapping[Training, dict[str, Any]], found: Found) -> Row:
    """The lead distance of each method to one hold-out, with its floors."""
    row = _row("generation", "", "", "lower")
    vae: dict[str, float] = {}
    for method, entry in entries.items():
        row["metric"], row["cells"][method], row["scale"] = lead(entry["distance"])
        if found[method].get("remarks"):
            row["cells"][method]["remark"] = "the judge chose this subset"
        if "subset_floor" in entry:
            floor = lead(entry["subset_floor"])[1]["value"]
            row["beside"].setdefault(f"real {method[0]} subset", floor)
        if "vae_floor" in entry:
            vae.setdefault("VAE", lead(entry["vae_floor"])[1]["value"])
    row["beside"] |= vae
    return row


def _loss(found: Found) -> Iterator[Row]:
    """The held-out diffusion loss of the averaged weights, beside that on training images."""
    for holdout in HOLDOUTS:
        row = _row("loss", f"Held-out loss, {holdout} hold-out", "mse of the noise", "lower",
                   holdout=holdout)  # fmt: skip
        for method, result in found.items():
            losses: dict[str, Any] = result.get("ema") or result.get("raw") or {}
            if holdout in losses:
                row["cells"][method] = dict(losses[holdout]["mse"])
                if "subset" in losses:
                    own = losses["subset"]["mse"]["value"]
                    row["beside"].setdefault(f"{method[0]}'s training images", own)
        if row["cells"]:
            yield row


_TASKS = {"sr": "Super-resolution", "sis": "Semantic image synthesis"}


def _pairs(task: str, found: Found) -> Iterator[Row]:
    """Paired metrics with the bicubic input, adherence with its ceiling and floor, the distance."""
    if not found:
        return
    for key, better in (("psnr", "higher"), ("ssim", "higher"), ("perceptual", "lower")):
        row = _row(task, _TASKS[task], "", better)
        if task == "sis" and key != "perceptual":
            continue  # a mask does not say the pixels
        for method, result in found.items():
            row["metric"], row["cells"][method] = result[key]["name"], dict(result[key])
            if "bicubic" in result:
                row["bicubic"] = result["bicubic"][key]["value"]
        if "bicubic" in row:
            row["beside"]["bicubic input"] = row["bicubic"]
        yield row
    for key, name in (("miou", "mIoU with the mask"), ("accuracy", "pixels as the mask says")):
        row = _row(task, _TASKS[task], name, "higher")
        for method, result in found.items():
            adherence = result.get("adherence")
            if adherence is None or adherence[key]["value"] is None:
                continue  # not asked for, or all pixels are of no class
            row["cells"][method] = dict(adherence[key])
            for words, other in (("real images", "real"), ("masks of other images", "shuffled")):
                if adherence[other][key]["value"] is not None:  # a lone image has no other mask
                    row["beside"].setdefault(words, adherence[other][key]["value"])
        if row["cells"]:
            yield row
    row = _row(task, _TASKS[task], "", "lower")
    for method, result in found.items():
        row["metric"], row["cells"][method], row["scale"] = lead(result["distance"])
        if "bicubic" in result:
            row["beside"]["bicubic input"] = lead(result["bicubic"]["distance"])[1]["value"]
    yield row
