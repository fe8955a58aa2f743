"""A segmenter that is trained on real image-mask pairs and then frozen, to judge generated images.

A U-Net (Ronneberger et al. 2015) or FPN of segmentation_models_pytorch on a light encoder, with
cross-entropy over the classes that are some: pixels of an unknown class count nowhere, neither in
training nor in judging. It sees crops of the size and scale that the SIS model draws.

    OUT/segmenter.safetensors, segmenter.json    the network, and what rebuilds it
    OUT/stats.jsonl                              the loss along the training
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from core.atomic import atomic_path, write_json
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage, read_manifest
from data.images.pretrained import load_lite0, normalised
from data.pairs.palettes import Palette, from_dict, load_palette
from dit.model.device import pick_device
from dit.training.config import schedule_factor
from dit.training.order import BatchPlan, plan_batch
from dit.training.tracking import Logger, open_logger, wandb_mode
from downstream.tasks.adherence import Confusion, confusions
from downstream.tasks.config import SegmenterConfig, open_listing
from downstream.tasks.dataset import PairDataset, choose_palette, fixed_crops
from downstream.tasks.source import open_pairs, planned_pixels

UNKNOWN = frozenset(
    ("unknown", "unlabelled", "unlabeled", "unchanged", "void", "ignore", "nodata", "no data")
)
_NONE = 255  # a target that the loss leaves out
_STRIDE = 32  # of the encoder: sides are padded to a multiple of it
_PIXELS = 2**21  # through the network at a time


def ignored(palette: Palette) -> list[int]:
    """Ids of the classes that say nothing of a pixel, by their names."""
    return [i for i, name in enumerate(palette.names) if name.lower() in UNKNOWN]


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A frozen segmenter.

    Attributes:
        record: segmenter.json: "palette", "image_size", "tile_size", "architecture", "encoder".
        network: logits [n, classes, h, w] of normalised pixels, in eval mode.
    """

    record: dict[str, Any]
    network: nn.Module
    device: str

    @property
    def palette(self) -> Palette:
        return from_dict(self.record["palette"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The class of every pixel, uint8 [n, h, w], of images uint8 [n, h, w, 3]; none of an
        unknown class."""
        height, width = images.shape[1:3]
        step = max(1, _PIXELS // (height * width))
        unknown = ignored(self.palette)
        found = []
        for start in range(0, len(images), step):
            with torch.inference_mode():
                logits = _logits(self.network, images[start : start + step], self.device)
                logits[:, unknown] = -torch.inf
                found.append(logits.argmax(dim=1).to(torch.uint8).cpu().numpy())
        return np.concatenate(found)


def load_segmenter(folder: Path, device: str) -> Segmenter:
    """A finished segmenter. Raises UserError where there is none."""
    if read_manifest(folder)["stage"] != "downstream.train_segmenter":
        raise UserError(f"--segmenter {folder}: not made by downstream.train_segmenter")
    record = json.loads((folder / "segmenter.json").read_text(encoding="utf-8"))
    network = _build(record["architecture"], record["encoder"], len(record["palette"]["classes"]))
    network.load_state_dict(load_file(folder / "segmenter.safetensors"))
    return Segmenter(record, _on(network, device).eval().requires_grad_(False), device)


def train_segmenter(config: SegmenterConfig, stage: Stage) -> Result:
    """Train, measure on the real images of val, write."""
    wandb_mode()  # a mode that there is not is refused before anything is written
    listing = open_listing("sis", config.data, "both")
    items = listing.items("train")
    palette = (
        choose_palette(items, listing.layout, listing.report, config.workers)
        if config.palette == "auto"
        else load_palette(config.palette)
    )
    settings = {
        "task": "sis",
        "image_size": config.image_size,
        "tile_size": config.tile_size,
        "palette": palette.describe(),
    }
    reading = {"cache": int(config.cache_gib * 2**30), "workers": config.workers}
    # Of four bands the colours: it judges pictures.
    pairs = open_pairs(listing, "train", settings, bands="colours", **reading)
    held_out = open_pairs(listing, "val", settings, bands="colours", **reading)
    for line in listing.report.lines():
        print(f"[{stage.name}] {line}")
    stage.open()
    device = pick_device(config.device)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = _build(config.architecture, config.encoder, palette.classes)
    if stage.inputs["weights"] != "random":
        _start_pretrained(network)
    network = _on(network, device)
    logger = open_logger(config.out, stage.params, stage=stage, earlier=())
    losses = _train(config, network, pairs, ignored(palette), device, stage, logger)
    logger.close(0)

    record = {
        **{name: value for name, value in settings.items() if name != "task"},
        "architecture": config.architecture,
        "encoder": config.encoder,
        "started_from": stage.inputs["weights"],
        "ignored": [palette.names[i] for i in ignored(palette)],
    }
    segmenter = Segmenter(record, network.eval().requires_grad_(False), device)
    real = _measure(segmenter, held_out)
    with atomic_path(config.out / "segmenter.safetensors") as temporary:
        state = network.state_dict()
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary)
    write_json(config.out / "segmenter.json", record)
    lines = "".join(json.dumps(line) + "\n" for line in losses)
    with atomic_path(config.out / "stats.jsonl") as temporary:
        temporary.write_text(lines)
    summary: dict[str, Any] = {
        "images": len(pairs),
        "val": {"images": len(held_out), **real.summary()},
        "started_from": stage.inputs["weights"],
        "data": listing.summary(),
    }
    miou, accuracy = (summary["val"][name]["value"] for name in ("miou", "accuracy"))
    return stage.finish(
        summary,
        ["segmenter.safetensors", "segmenter.json", "stats.jsonl"],
        f"{config.steps:,} steps on {len(pairs):,} images; on {len(held_out):,} real ones of val: "
        f"mIoU {miou:.3f}, accuracy {accuracy:.3f}",
    )


def _build(architecture: str, encoder: str, classes: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    make = {"unet": smp.Unet, "fpn": smp.FPN}[architecture]
    try:
        return make(encoder, encoder_weights=None, in_channels=3, classes=classes)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--encoder {encoder}: segmentation_models_pytorch does not build it ({error}); "
            "'tu-' and the name of a timm model, for example"
        ) from None


def _start_pretrained(network: Any) -> None:
    """Give the encoder, timm's tf_efficientnet_lite0, its ImageNet weights."""
    published = load_lite0().state_dict()
    inner = network.encoder.model
    inner.load_state_dict({name: published[name] for name in inner.state_dict()})


def _train(
    config: SegmenterConfig,
    network: nn.Module,
    pairs: PairDataset,
    unknown: list[int],
    device: str,
    stage: Stage,
    logger: Logger,
) -> list[dict[str, float]]:
    """AdamW, cosine rate; crops, mirrors and quarter turns by (seed, step, slot)."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    network.train()
    lines, total = [], 0.0
    with progress(total=config.steps, name="train", unit="step") as bar:
        for step in range(config.steps):
            plan = plan_batch(config.seed, step, config.batch, len(pairs))
            images, ids = _augmented(pairs, plan)
            target = torch.from_numpy(ids).long().to(device)
            target[torch.isin(target, torch.tensor(unknown, device=device))] = _NONE
            logits = _logits(network, images, device)
            # Summed and divided: a batch of unknown pixels alone has no mean.
            known = (target != _NONE).sum().clamp(min=1)
            loss = cross_entropy(logits, target, ignore_index=_NONE, reduction="sum") / known
            optimizer.param_groups[0]["lr"] = config.learning_rate * schedule_factor(
                "cosine", step, config.steps
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
            bar.update()
            stage.count(config.batch)
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                count = (step % config.log_every) + 1
                lines.append({"step": step + 1, "loss": total / count})
                logger.log(lines[-1])
                bar.set_postfix(loss=f"{total / count:.3f}")
                total = 0.0
    if not np.isfinite(lines[-1]["loss"]):
        raise UserError("the segmenter's loss is not finite; give a lower --learning-rate")
    return lines


def _augmented(pairs: PairDataset, plan: BatchPlan) -> tuple[np.ndarray, np.ndarray]:
    """The plan's crops, mirrored by its flips and turned by its third uniforms."""
    images, ids = planned_pixels(pairs, plan)
    for row, turns in enumerate((4 * plan.uniforms[:, 2]).astype(int)):
        images[row], ids[row] = np.rot90(images[row], turns), np.rot90(ids[row], turns)
    return images, ids


def _measure(segmenter: Segmenter, pairs: PairDataset) -> Confusion:
    """Against the masks of a grid over every image."""
    counts = []
    crops = fixed_crops(pairs.sizes, pairs.image_size, grid=True)
    for start in range(0, len(crops), 16):
        images, ids = pairs.crops(crops[start : start + 16])
        counts.append(confusions(segmenter(images), ids, segmenter.palette.classes))
    return Confusion(np.concatenate(counts), segmenter.palette.names, ignored(segmenter.palette))


def _on(network: nn.Module, device: str) -> nn.Module:
    """Channels last: a quarter less time on a CPU."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _logits(network: nn.Module, images: np.ndarray, device: str) -> Tensor:
    """[n, classes, h, w] of images uint8 [n, h, w, 3] of any size."""
    height, width = images.shape[1:3]
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    x = normalised(batch.permute(0, 3, 1, 2))  # channels last, as the network is
    x = pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
    return network(x)[:, :, :height, :width]
