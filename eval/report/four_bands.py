"""Corpora with near infrared: the distances of NIR, R, G, and what their VAE leaves of each band.

The paper does not say how it compares images of four bands by networks of three; its columns are
filled by red, green and blue. What they cannot see stands here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.manifest import verify_file
from data.curation.config import HOLDOUTS
from eval.programme.plan import Cell, Plan
from eval.records.value import Result, lead
from eval.report.bands import BANDS, PART, SHOWN, WAYS, has_four_bands
from eval.report.measured import measured_rows
from eval.report.records import Records
from eval.report.seeds import merge_seeds


def four_bands(plan: Plan, records: Records) -> list[dict[str, Any]]:
    """For each corpus of four bands what there is.

    corpus; `labels` and `rows` (as eval.report.measured_rows) of the distances on NIR, R, G with
    their floors; `vae`, rows of what the VAE leaves of the hold-outs; `ways`, label -> task -> how
    RGB data met a checkpoint of four bands.
    """
    found = []
    for corpus in dict.fromkeys(cell.corpus for cell in plan.cells):
        cells = [c for c in plan.cells if c.corpus == corpus and has_four_bands(c)]
        results: dict[tuple[str, int, str], Result] = {
            (cell.label, seed, "generation"): {**result["infrared"], "authenticity": {}}
            for cell in cells
            for seed, result in records.seeds(cell, "generation", "last").items()
            if "infrared" in result
        }
        rows = merge_seeds(measured_rows(results))
        labels = list(dict.fromkeys(label for label, _, _ in results))
        vae, ways = list(_vae(plan, cells, records)), _ways(cells, records)
        if rows or vae or ways:
            found.append(
                {"corpus": corpus, "labels": labels, "rows": rows, "vae": vae, "ways": ways}
            )
    return found


def _vae(plan: Plan, cells: list[Cell], records: Records) -> Iterator[dict[str, Any]]:
    """Rows of the reconstruction's record: what, better, hold-out -> value, and the truth's."""
    jobs = [plan.job(run, PART) for cell in cells for run in cell.runs]
    done = [job for job in jobs if job is not None and records.states[job.id] == "done"]
    for path in dict.fromkeys(job.out for job in done):
        try:
            yield from _rows(_read(path))
        except UserError as error:
            records.note(path, error)


def _read(path: Path) -> Mapping[str, Any]:
    """The hold-outs of a record of eval.reconstruction. Raises UserError when it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["holdouts"]
        list(_rows(found))  # what cannot be shown is none
    except (OSError, ValueError, TypeError, LookupError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{path}: not what eval.reconstruction writes ({type(error).__name__}: {error}); "
            "delete it and run that again"
        ) from None
    verify_file(path)
    return dict(found)


def _rows(holdouts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    there: list[str] = [name for name in HOLDOUTS if name in holdouts]
    quality = {name: holdouts[name]["quality"] for name in there}

    def row(what: str, better: str, values: Mapping[str, float], scale: float = 1.0) -> Any:
        return {"what": what, "better": better, "values": dict(values), "scale": scale}

    for band, name in enumerate(BANDS):
        yield row(
            f"PSNR, {name}, dB", "higher", {h: q["psnr_band"][band] for h, q in quality.items()}
        )
    for band, name in enumerate(BANDS):
        values = {h: q["ssim_band"][band] for h, q in quality.items() if q["ssim_band"]}
        yield row(f"SSIM, {name}", "higher", values)
    for key, what in (
        ("red_correlation", "correlation of near infrared and red"),
        ("ndvi_mean", "NDVI, mean"), ("ndvi_std", "NDVI, standard deviation"),
    ):  # fmt: skip
        for side, whose in (("images", "real images"), ("rebuilt", "after the VAE")):
            values = {h: q["infrared"][key][side] for h, q in quality.items()}
            # There is no correlation of a band that is the same everywhere.
            values = {h: value for h, value in values.items() if value is not None}
            yield row(f"{what}, {whose}", "as real", values)
    errors = {h: q["infrared"]["ndvi_error"] for h, q in quality.items()}
    yield row("NDVI, mean absolute error", "lower", errors)
    for composite, bands in (("rgb", SHOWN), ("infrared", "NIR,R,G")):
        leads = {h: lead(holdouts[h][composite]["distance"]) for h in there}
        name, _, scale = next(iter(leads.values()))
        values = {h: one[1]["value"] for h, one in leads.items()}
        yield row(f"{name} after the VAE, {bands}", "lower", values, scale)


def _way(bands: Mapping[str, Any]) -> str:
    """In words, with how well near infrared follows from the colours where it was predicted."""
    way, model = bands["way"], bands["infrared"]
    form = {"predicted": "quadratic", "split": "linear"}.get(way)
    said = f" (r2 {model['r2'][form]:.2f})" if model and form else ""
    return WAYS.get(way, way) + said


def _ways(cells: list[Cell], records: Records) -> dict[str, dict[str, str]]:
    """Label -> sr, sis -> how RGB data met a checkpoint of four bands."""
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        for task in ("sr", "sis"):
            for result in records.seeds(cell, task, "last").values():
                if bands := result.get("bands"):
                    found.setdefault(cell.label, {})[task] = _way(bands)
    return found
