"""eval.loss: one model's diffusion loss on every hold-out, beside that on its training subset."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.atomic import write_json
from core.engines import process_group
from core.errors import UserError
from core.stage import Result, Stage, read_manifest
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from data.corpus.verified import check_corpus
from data.curation.holdout import draw, holdout_names, read_holdout
from data.formats.tables import read_part, write_table
from dit.model.device import pick_device
from dit.sampling.sample import check_vae
from dit.training.pretrained import load_dit
from dit.vae.autoencoder import load_vae
from dit.vae.listing import Listing, listing_of, read_subset
from eval.distances.bootstrap import bootstrap_interval
from eval.records.config import LossConfig, each_image
from eval.records.diffusion import Losses, encode, losses, summary

SUBSET = "subset"
"""The name of the training images beside those of the hold-outs."""


@dataclasses.dataclass(frozen=True)
class Sets:
    """Images by the sets that they are in.

    Attributes:
        images: each image once.
        rows: name of a set -> its rows in `images`, int64.
    """

    images: Listing
    rows: dict[str, np.ndarray]


def evaluate(config: LossConfig, stage: Stage) -> Result:
    """Write the metrics file, and beside it what each image lost. The processes of a launch share
    the work."""
    group = process_group()
    sets = read_sets(config.holdout, config.subset, config.n, config.seed)
    corpus = open_corpus(config.corpus)
    if group.main:
        keep_apart(config.out.parent, corpus, config.corpus)
        check_corpus(corpus, len(sets.images), sets.images.images)
    device = pick_device(config.device, config.precision)
    vae = load_vae(config.vae, device)
    models = {}
    for weights in config.kinds():
        model, latent = load_dit(config.checkpoint, weights, config.num_heads)
        check_vae(model, latent, vae, config.checkpoint, config.vae)
        models[weights] = model.eval()
    image_size = model.input_size * vae.factor
    before = None if config.baseline is None else Baseline(config.baseline, stage)
    group.open(stage)

    latents = encode(vae, corpus, sets.images, image_size, config.seed, group=group)
    keys = sets.images.keys
    found: dict[str, Losses] = {}
    for weights, model in models.items():
        found[weights] = losses(
            model.to(device),
            latents,
            keys,
            seed=config.seed,
            draws=config.bins * config.per_bin,
            batch=config.batch,
            device=device,
            precision=config.precision,
            label=f"loss, {weights}",
            group=group,
        )
        model.to("cpu")
        if not found[weights].finite():
            raise UserError(
                f"{config.checkpoint}: the {weights} weights give a loss that is not finite; the "
                "training has diverged (try --weights raw or an earlier checkpoint)"
            )
    group.gather(stage)
    stage.count(len(keys))
    result: dict[str, Any] = {
        "task": "loss",
        "image_size": image_size,
        "timesteps": {"bins": config.bins, "per_bin": config.per_bin},
        "seed": config.seed,
    }
    for kind, each in found.items():
        parts = {name: each.take(rows) for name, rows in sets.rows.items()}
        means = {name: part.loss.mean(axis=1) for name, part in parts.items()}
        result[kind] = {name: summary(part, config.bins) for name, part in parts.items()}
        for name in parts.keys() - {SUBSET}:
            entry = result[kind][name]
            if SUBSET in means:
                entry["gap"] = _gap(means[name], means[SUBSET])
            if before is not None:
                held = [keys[row] for row in sets.rows[name]]
                entry["difference"] = before.difference(kind, held, means[name])
    write_table(each_image(config.out), _table(sets, found))
    write_json(config.out, result)
    written = [config.out.name, each_image(config.out).name]
    return stage.finish({"result": result}, written, _line(result, list(found)))


def read_sets(holdout: Path, subset: Path | None, n: int, seed: int) -> Sets:
    """The images of every hold-out in the file, in its order, and of the training subset.

    Args:
        n: of each, drawn by a hash of seed and key; 0: all of a hold-out, and as many of the
            subset as of the largest hold-out.

    Raises UserError when the subset was not kept apart from the hold-out.
    """
    parts = {name: listing_of(read_holdout(holdout, name)) for name in holdout_names(holdout)}
    if not parts:
        raise UserError(f"{holdout}: no images in it; make it again with python -m data.holdout")
    most = n or max(map(len, parts.values()))
    if subset is not None:
        parts[SUBSET] = _trained_on(subset, holdout)
    places: dict[str, int] = {}
    images, rows = Listing([], []), {}
    for name, part in parts.items():
        chosen = part.take(sorted(draw(part.keys, most, seed)))
        for where, digest in zip(chosen.places, chosen.digests, strict=True):
            if where[0] not in places:
                places[where[0]] = len(places)
                images.places.append(where)
                images.digests.append(digest)
        rows[name] = np.array([places[key] for key in chosen.keys])
    return Sets(images, rows)


def _trained_on(subset: Path, holdout: Path) -> Listing:
    """The subset's images, none of them held out."""
    images, held = read_subset(subset), listing_of(read_holdout(holdout))
    if not len(images):
        raise UserError(f"{subset}: no images in it")
    both = set(images.keys) & set(held.keys)
    copies = {one for one in images.digests if one is not None} & set(held.digests)
    if both or copies:
        example = f", for example '{min(both)}'" if both else ""
        raise UserError(
            f"{subset}: {max(len(both), len(copies))} of its images are held out by {holdout}"
            f"{example}; the subset was chosen with another hold-out: give that one"
        )
    return images


class Baseline:
    """What another model lost on the same images, from its metrics file.

    Raises UserError when its questions were others: seed, timesteps, VAE or hold-out.
    """

    def __init__(self, path: Path, stage: Stage) -> None:
        self.path = path
        manifest = read_manifest(path)
        there = {**manifest["params"], **manifest["inputs"]}
        now = {**stage.params, **stage.inputs}
        differing = [
            f"{name}: {there.get(name)} there, {now[name]} now"
            for name in ("seed", "bins", "per_bin", "n", "vae", "holdout")
            if there.get(name) != now[name]
        ]
        if manifest["stage"] != "eval.loss" or differing:
            raise UserError(
                f"--baseline {path}: not of the same images, timesteps and noise "
                f"({'; '.join(differing) or manifest['stage']}); run eval.loss for it as for this"
            )
        table = read_part(each_image(path))
        self._losses: dict[str, dict[str, float]] = {}
        for weights in pc.unique(table["weights"]).to_pylist():
            mine = table.filter(pc.equal(table["weights"], weights))
            loss = mine.append_column("loss", pc.add(mine["mse"], mine["vb"]))
            means = loss.group_by("key").aggregate([("loss", "mean")])
            pairs = zip(means["key"].to_pylist(), means["loss_mean"].to_pylist(), strict=True)
            self._losses[weights] = dict(pairs)

    def difference(self, weights: str, keys: Sequence[str], loss: np.ndarray) -> dict[str, Any]:
        """This model's loss [n] less the other's on the images with these keys, in pairs."""
        if weights not in self._losses:
            raise UserError(
                f"--baseline {self.path}: has no {weights} weights; give --weights "
                f"{' or '.join(self._losses)}"
            )
        pairs = loss - np.array([self._losses[weights][key] for key in keys])
        return {"value": float(pairs.mean()), "interval_95": list(bootstrap_interval(pairs))}


def _gap(held: np.ndarray, trained: np.ndarray) -> dict[str, Any]:
    """Loss [n] on a hold-out less that [m] on the training images, with a bootstrap interval.

    Other images on both sides, so both are drawn again, each among its own.
    """
    generator = np.random.default_rng(0)
    means = [
        values[generator.integers(0, len(values), (1000, len(values)))].mean(axis=1)
        for values in (held, trained)
    ]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return {"value": float(held.mean() - trained.mean()), "interval_95": [float(low), float(high)]}


def _table(sets: Sets, found: dict[str, Losses]) -> pa.Table:
    """A row for each image, kind of weights and timestep, and which sets the image is in."""
    parts = []
    for weights, each in found.items():
        n, draws = each.t.shape
        inside = {name: np.isin(np.arange(n), rows) for name, rows in sets.rows.items()}
        columns: dict[str, Any] = {
            "key": np.repeat(np.array(sets.images.keys, dtype=object), draws),
            "weights": pa.array([weights] * (n * draws)),
            **{name: np.repeat(values, draws) for name, values in inside.items()},
            "t": each.t.ravel(),
            "mse": each.mse.ravel(),
            "vb": each.vb.ravel(),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _line(result: dict[str, Any], kinds: Sequence[str]) -> str:
    parts = []
    for weights in kinds:
        of = [f"{name} {part['loss']['value']:.4f}" for name, part in result[weights].items()]
        parts.append(f"{weights}: {', '.join(of)}")
    return "loss, " + "; ".join(parts)
