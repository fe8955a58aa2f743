"""The adherence of a finished evaluation's images to their masks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.progress import progress
from data.pairs.palettes import Palette
from downstream.tasks.adherence import Confusion, confusions
from downstream.tasks.pictures import load_png
from downstream.tasks.segmenter import ignored, load_segmenter

ADHERENCE = "adherence.json"
SAME = ("palette", "image_size", "tile_size")  # of the segmenter and of what it judges


def measure_adherence(
    folder: Path, out: Path, names: Sequence[str], settings: Mapping[str, Any], device: str
) -> dict[str, Any]:
    """What the segmenter in `folder` finds in OUT/generated, against OUT/condition's masks.

    Returns "miou", "accuracy" and "per_class" (see Confusion.summary), the same under "real", of
    OUT/target, and under "shuffled", of the generated images against the masks of others of their
    size (values are None where there are none); and "segmenter". `settings` are the run's.

    Raises UserError for a segmenter of another palette, size or scale.
    """
    segmenter = load_segmenter(folder, device)
    for name in SAME:
        if segmenter.record[name] != settings[name]:
            there, here = (
                part["name"] if name == "palette" else part
                for part in (segmenter.record[name], settings[name])
            )
            raise UserError(
                f"--segmenter {folder}: was trained with --{name.replace('_', '-')} {there}, the "
                f"run with {here}; train one as the run was"
            )
    palette = segmenter.palette
    masks = {name: _mask(out, name, palette) for name in names}
    others = _others({name: mask.shape for name, mask in masks.items()})
    counts: dict[str, list[np.ndarray]] = defaultdict(list)
    for name in progress(names, name="adherence"):
        drawn, real = (
            segmenter(load_png(out / part / f"{name}.png")[None])
            for part in ("generated", "target")
        )
        counts["generated"].append(confusions(drawn, masks[name][None], palette.classes))
        counts["real"].append(confusions(real, masks[name][None], palette.classes))
        if name in others:
            mask = masks[others[name]][None]
            counts["shuffled"].append(confusions(drawn, mask, palette.classes))

    def summary(part: str) -> dict[str, Any]:
        none = np.zeros((0, palette.classes, palette.classes), np.int64)
        return Confusion(
            np.concatenate([none, *counts[part]]), palette.names, ignored(palette)
        ).summary()

    about = {name: segmenter.record[name] for name in ("architecture", "encoder", "started_from")}
    return {
        **summary("generated"),
        "real": summary("real"),
        "shuffled": summary("shuffled"),
        "ignored": segmenter.record["ignored"],
        "segmenter": about,
    }


def _mask(out: Path, name: str, palette: Palette) -> np.ndarray:
    return palette.ids(load_png(out / "condition" / f"{name}.png"), name)[0]


def _others(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """For each image another of its size, no two the same: the next in the order of digests, which
    puts tiles of one image apart."""
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in sorted(shapes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        groups[shapes[name]].append(name)
    return {
        name: group[(i + 1) % len(group)]
        for group in groups.values()
        if len(group) > 1
        for i, name in enumerate(group)
    }
