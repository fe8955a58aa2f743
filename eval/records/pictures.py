"""python -m eval.pictures: what was kept and dropped, and what the trained models make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.settings import parse, place, science, settings
from core.stage import Stage, fingerprint, sha256_file
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus

KEPT, DROPPED, SELECTED = "#1b7f5c", "#b8bcc2", "#0b3d91"


@settings
class PicturesConfig:
    """Which run to draw."""

    run: Path
    """Run folder with scores/, subsets/, samples/, sr-eval/ and sis-eval/."""
    corpus: str = place()
    """Corpus that the scores are of, as prune.score takes it, for tiles beside the histogram."""
    out: Path
    """Folder for the pictures (PNG)."""
    arms: tuple[str, ...] = ("rsprune", "random")
    """Selection methods to show, in order."""


def main(argv: list[str] | None = None) -> int:
    config = parse(
        PicturesConfig,
        argv,
        prog="python -m eval.pictures",
        description="Entropy histogram with kept and dropped tiles, sample grids, triptychs.",
    )
    inputs = {"scores": fingerprint(config.run / "scores")}
    for arm in config.arms:
        inputs[f"{arm} subset"] = sha256_file(config.run / "subsets" / f"{arm}.parquet")
        inputs[f"{arm} samples"] = fingerprint(config.run / "samples" / arm)
        for task in ("sr", "sis"):
            inputs[f"{arm} {task}"] = fingerprint(config.run / f"{task}-eval" / arm)
    stage = Stage(config.out, "eval.pictures", science(config), inputs, replace=True)
    if stage.done():
        return 0
    keep_apart(config.out, open_corpus(config.corpus), config.corpus)
    stage.open()
    import matplotlib

    matplotlib.use("Agg")
    written = [
        entropy_picture(config.run, config.corpus, config.arms[0], config.out / "entropy.png"),
        samples_picture(config.run, config.arms, config.out / "samples.png"),
    ]
    written += [
        triptychs_picture(config.run, config.arms, task, config.out / f"{task}.png")
        for task in ("sr", "sis")
    ]
    stage.finish({}, [path.name for path in written], f"{len(written)} pictures")
    return 0


def entropy_picture(run: Path, corpus: str, arm: str, out: Path) -> Path:
    """Histogram of H(I) with the Stage I threshold, and tiles dropped, kept and selected."""
    import matplotlib.pyplot as plt

    from data.formats.index import read_index
    from data.formats.tables import read_parts

    scores = read_parts(run / "scores", columns=["key", "shard", "row", "entropy", "status"])
    scores = scores.filter(np.asarray(scores["status"].to_pylist()) == "ok")
    entropy = scores["entropy"].to_numpy()
    index, _ = read_index(run / "subsets" / f"{arm}.parquet")
    survivors = read_parts(run / "assignments", columns=["key"])["key"].to_pylist()
    keys = scores["key"].to_numpy(zero_copy_only=False)
    kept = np.isin(keys, survivors)
    chosen = np.isin(keys, index["key"].to_pylist())
    threshold = entropy[kept].min()

    figure, axes = plt.subplots(
        4, 1, figsize=(11, 8.2), height_ratios=[3.2, 1.25, 1.25, 1.25], layout="constrained"
    )
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
        axis.imshow(_strip(corpus, scores, entropy, mask))
        axis.set_title(title, fontsize=10, loc="left")
        axis.axis("off")
    return save_figure(figure, out)


def _strip(corpus: str, scores: Any, entropy: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sixteen tiles of the rows in `mask`, evenly spread over their entropy order."""
    from data.corpus.specs import open_corpus
    from data.images.decode import decode_rgb
    from data.images.transforms import center_crop

    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(entropy[rows], kind="stable")]
    rows = rows[np.linspace(0, len(rows) - 1, 16).round().astype(int)] if len(rows) else rows
    picked = scores.take(rows)
    places = list(zip(*(picked[name].to_pylist() for name in ("key", "shard", "row")), strict=True))
    tiles = []
    for sample in open_corpus(corpus).fetch(places):
        if sample.data is None:
            raise UserError(f"{corpus}: {sample.key} cannot be read any more: {sample.error}")
        tiles.append(center_crop(decode_rgb(sample.data), 64))
    return _row(tiles, count=16)


def samples_picture(run: Path, arms: tuple[str, ...], out: Path) -> Path:
    """The first 24 samples of each arm, from the same noise."""
    import matplotlib.pyplot as plt

    from eval.judges.images import names_of, read_folder
    from eval.paper.table import ARM_NAMES

    figure, axes = plt.subplots(len(arms), 1, figsize=(11, 2.2 * len(arms)), layout="constrained")
    for axis, arm in zip(np.atleast_1d(axes), arms, strict=True):
        _, images = read_folder(run / "samples" / arm, names_of(run / "samples" / arm))
        rows = [_row(list(images[start : start + 12]), count=12) for start in (0, 12)]
        axis.imshow(np.concatenate(rows))
        axis.set_title(f"generated, trained on the {ARM_NAMES.get(arm, arm)} subset", loc="left")
        axis.axis("off")
    return save_figure(figure, out)


def triptychs_picture(run: Path, arms: tuple[str, ...], task: str, out: Path) -> Path:
    """Condition, generated by each arm, reference: eight items, evenly spread, in columns."""
    import matplotlib.pyplot as plt

    from eval.judges.images import read_folder
    from eval.paper.table import ARM_NAMES

    folders = [run / f"{task}-eval" / arm for arm in arms]
    names = sorted(p.name for p in (folders[0] / "reference").glob("*.png"))
    names = names[:: max(1, len(names) // 8)][:8]  # not the crops of one image side by side
    conditions = {"sr": "low resolution, bicubic", "sis": "land-cover mask"}
    rows = [(conditions[task], folders[0] / "condition")]
    rows += [
        (ARM_NAMES.get(arm, arm), folder / "generated")
        for arm, folder in zip(arms, folders, strict=True)
    ]
    rows.append(("real image", folders[0] / "reference"))
    figure, axes = plt.subplots(len(rows), 1, figsize=(11, 1.55 * len(rows)), layout="constrained")
    for axis, (title, folder) in zip(axes, rows, strict=True):
        _, images = read_folder(folder, names)
        axis.imshow(_row(list(images), count=8))
        axis.set_title(title, fontsize=10, loc="left")
        axis.axis("off")
    return save_figure(figure, out)


def _row(images: list[np.ndarray], *, count: int) -> np.ndarray:
    """Images side by side with white gaps; white tiles fill up to `count`."""
    size = images[0].shape[0] if images else 64
    gap = max(2, size // 32)
    canvas = np.full((size + gap, count * (size + gap), 3), 255, dtype=np.uint8)
    for column, image in enumerate(images[:count]):
        left = column * (size + gap)
        canvas[:size, left : left + size] = image
    return canvas


def save_figure(figure: Any, out: Path) -> Path:
    """Write a matplotlib figure as PNG, atomically, and close it."""
    import matplotlib.pyplot as plt

    from core.atomic import atomic_path

    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    return out
