"""Pictures of a run: what was kept and dropped, and what the trained models make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from core.stage import Result, Stage
from data.corpus.base import Corpus, keep_apart
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus, images_of
from data.curation.holdout import draw
from data.formats.index import read_index
from data.formats.tables import read_parts
from data.images.chips import BANDS
from dit.vae.images import bands_of
from dit.vae.listing import Listing, listing_of
from dit.vae.pictures import INFRARED
from eval.judges.config import target_folder
from eval.judges.images import names_of, read_composite, read_folder
from eval.programme.plan import Plan
from eval.records.curves import save_figure
from eval.report.shown import Shown

PLACE = ("key", "shard", "row")
KEPT, DROPPED, SELECTED = "#1b7f5c", "#b8bcc2", "#0b3d91"
CONDITIONS = {"sr": "low resolution, bicubic", "sis": "land-cover mask"}


def draw_pictures(plan: Plan, shown: Sequence[Shown], stage: Stage) -> Result:
    """Write entropy.png, samples.png, sr.png and sis.png, as far as their jobs are done.

    Of several corpora each has a folder of its own.
    """
    read = [_corpus(plan.corpora[one.corpus], one, stage.out) for one in shown]
    stage.open()
    written: list[Path] = []
    for one, (corpus, scores) in zip(shown, read, strict=True):
        out = stage.out / one.corpus if len(shown) > 1 else stage.out
        out.mkdir(parents=True, exist_ok=True)
        written += _pictures(one, corpus, scores, out)
    names = [str(path.relative_to(stage.out)) for path in written]
    return stage.finish({}, names, f"{len(written)} pictures")


def _corpus(specification: str, one: Shown, out: Path) -> tuple[Corpus, pa.Table]:
    """The corpus, and the scores of its images that could be decoded."""
    corpus = open_corpus(specification)
    keep_apart(out, corpus, specification)
    scores = read_parts(one.scores, [*PLACE, "digest", "entropy", "status"])
    scores = scores.filter(pc.equal(scores["status"], "ok"))
    check_corpus(corpus, scores.num_rows, lambda rows: images_of(scores.take(rows)))
    return corpus, scores


def _pictures(one: Shown, corpus: Corpus, scores: pa.Table, out: Path) -> Iterator[Path]:
    if one.assignments is not None:
        subset, survivors = one.assignments
        yield entropy_picture(subset, survivors, corpus, scores, out / "entropy.png")
    if one.samples:
        yield samples_picture(one.samples, corpus, out / "samples.png")
        four = bands_of(corpus, listing_of(scores.slice(0, 1))) == BANDS
        if four and all((folder / INFRARED).is_dir() for _, folder, _ in one.samples):
            yield samples_picture(one.samples, corpus, out / "samples-infrared.png", INFRARED)
    for task, folders in one.pairs.items():
        if folders:
            yield pairs_picture(folders, task, out / f"{task}.png")


def entropy_picture(
    subset: Path, assignments: Path, corpus: Corpus, scores: pa.Table, out: Path
) -> Path:
    """Histogram of H(I) with the Stage I threshold, and tiles dropped, kept and selected."""
    entropy = scores["entropy"].to_numpy()
    index, _ = read_index(subset)
    survivors = read_parts(assignments, columns=["key"])["key"].to_pylist()
    keys = scores["key"].to_numpy(zero_copy_only=False)
    kept = np.isin(keys, survivors)
    chosen = np.isin(keys, index["key"].to_pylist())
    threshold = entropy[kept].min()

    figure = Figure(figsize=(11, 8.2), layout="constrained")
    axes = figure.subplots(4, 1, height_ratios=[3.2, 1.25, 1.25, 1.25])
    bins = np.linspace(0.0, 8.0, 81)
    axes[0].hist(
        [entropy[~kept], entropy[kept & ~chosen], entropy[chosen]],
        bins=bins,
        stacked=True,
        color=[DROPPED, KEPT, SELECTED],
        label=[
            f"dropped by Stage I or held out ({(~kept).sum():,})",
            f"kept by Stage I, not selected ({(kept & ~chosen).sum():,})",
            f"selected by Stage II ({chosen.sum():,})",
        ],
    )
    axes[0].axvline(threshold, color="black", linewidth=1, linestyle="--")
    axes[0].annotate(
        f"tau = {threshold:.2f} bits", (threshold, axes[0].get_ylim()[1] * 0.94), xytext=(5, 0),
        textcoords="offset points", fontsize=9,
    )  # fmt: skip
    axes[0].set(xlabel="grey-level Shannon entropy H(I), bits", ylabel="images", xlim=(0, 8))
    axes[0].legend(loc="upper left", frameon=False, fontsize=9)
    axes[0].spines[["top", "right"]].set_visible(False)
    below = ~kept & (entropy < threshold)
    for axis, mask, title in (
        (axes[1], below, "dropped by Stage I, lowest to highest entropy"),
        (axes[2], kept & ~chosen, "kept by Stage I, not selected"),
        (axes[3], chosen, "selected by Stage II"),
    ):
        _show(axis, _row(_tiles(corpus, scores, mask), count=16), title)
    return save_figure(figure, out)


def _tiles(corpus: Corpus, scores: pa.Table, mask: np.ndarray) -> list[np.ndarray]:
    """Sixteen tiles of the rows in `mask`, evenly spread over their entropy order."""
    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(scores["entropy"].to_numpy()[rows], kind="stable")]
    rows = rows[np.linspace(0, len(rows) - 1, 16).round().astype(int)] if len(rows) else rows
    return list(_real(corpus, listing_of(scores.take(rows)), 64))


def _real(corpus: Corpus, images: Listing, side: int, shown: str = "rgb") -> Iterator[np.ndarray]:
    bands = bands_of(corpus, images) if len(images) else 3
    return read_composite(corpus, images, side, bands, shown)


def samples_picture(
    samples: Sequence[tuple[str, Path, Path]], corpus: Corpus, out: Path, shown: str = "rgb"
) -> Path:
    """The first 24 samples of each family, from the same noise; real images of its subset below;
    in true colour or, of four bands, in colour infrared.

    Args:
        samples: label, samples and subset index of each family.
    """
    figure = Figure(figsize=(11, 3.3 * len(samples)), layout="constrained")
    axes = iter(figure.subplots(2 * len(samples), 1, height_ratios=[2.0, 1.0] * len(samples)))
    for name, folder, subset in samples:
        place = folder / INFRARED if shown == INFRARED else folder
        images = read_folder(place, names_of(folder)[:24])
        starts = range(0, len(images), 12)
        rows = [_row(images[start : start + 12], count=12) for start in starts]
        _show(next(axes), np.concatenate(rows), f"generated, trained on the {name} subset", "large")
        index, _ = read_index(subset)
        chosen = index.take(draw(index["key"].to_pylist(), 12, 0))
        real = list(_real(corpus, listing_of(chosen), images.shape[1], shown))
        _show(next(axes), _row(real, count=12), f"real images of the {name} subset", "large")
    return save_figure(figure, out)


def pairs_picture(folders: Sequence[tuple[str, Path]], task: str, out: Path) -> Path:
    """Condition, generated by each family, target: eight items, evenly spread, in columns.

    Args:
        folders: label and images of each family.
    """
    first = folders[0][1]
    target = first / target_folder(first)
    names = sorted(path.name for path in target.glob("*.png"))
    names = names[:: max(1, len(names) // 8)][:8]  # not the crops of one image side by side
    rows = [(CONDITIONS[task], first / "condition")]
    rows += [(name, folder / "generated") for name, folder in folders]
    rows.append(("real image", target))
    figure = Figure(figsize=(11, 1.55 * len(rows)), layout="constrained")
    for axis, (title, folder) in zip(figure.subplots(len(rows), 1), rows, strict=True):
        _show(axis, _row(read_folder(folder, names), count=8), title)
    return save_figure(figure, out)


def _show(axis: Any, picture: np.ndarray, title: str, fontsize: int | str = 10) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=fontsize, loc="left")
    axis.axis("off")


def _row(images: Sequence[np.ndarray] | np.ndarray, *, count: int) -> np.ndarray:
    """Images side by side with white gaps; white tiles fill up to `count`."""
    size = images[0].shape[0] if len(images) else 64
    gap = max(2, size // 32)
    canvas = np.full((size + gap, count * (size + gap), 3), 255, dtype=np.uint8)
    for column, image in enumerate(images[:count]):
        left = column * (size + gap)
        canvas[:size, left : left + size] = image
    return canvas
