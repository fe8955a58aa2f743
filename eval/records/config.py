"""Settings of eval.track and eval.loss. Light to import: no torch, no arrays, no drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from core.errors import UserError
from core.settings import (
    AtLeast0,
    AtLeast1,
    NonNegative,
    Seed,
    machine,
    place,
    science,
    settings,
)
from core.stage import (
    Stage,
    fingerprint,
    manifest_path,
    read_record,
    require_folder,
    sha256_file,
)
from dit.sampling.config import DrawConfig, with_class
from dit.training.checkpoint import Weights, trained_on
from dit.training.checkpoint import fingerprint as checkpoint_fingerprint
from dit.training.stage import run_of
from dit.vae.autoencoder import describe_vae
from eval.judges.config import ExtractorName, require_holdout


@settings
class TrackConfig(DrawConfig):
    """Settings of eval.track."""

    run: Path
    """Run folder of dit.train, finished or not."""
    vae: Path
    """VAE that decodes: folder in diffusers' layout or hub id; must be the one trained with."""
    corpus: str = place()
    """Corpus that the hold-out images come from, as prune.score takes it."""
    holdout: Path
    """Hold-out table (from data.holdout)."""
    out: Path
    """Folder for track.jsonl and track.png."""
    against: Literal["all", "pool", "balanced", "informative"] = "all"
    """Hold-out that the samples are compared with: one, or all that are in the table."""
    loss_images: AtLeast0 = 256
    """Images of each hold-out whose diffusion loss is measured, drawn by a hash of their keys; at
    ten timesteps each. 0: no loss."""
    n: Annotated[int, Field(ge=4)] = 1000
    """Images drawn for each line. Frechet distances of different counts do not compare."""
    extractor: ExtractorName = "inception"
    """Who judges, as in eval.evaluate."""
    sampler: Literal["ddpm", "ddim", "dpmpp"] = "ddim"
    """As in dit.sample."""
    steps: AtLeast1 = 50
    """Model evaluations an image."""
    batch: AtLeast1 = machine(64)
    """Images at a time through the model."""

    # These say which lines are wanted, and change none of them.
    weights: Literal["both", "ema", "raw"] = machine("both")
    """The weights' moving average, the weights themselves, or both."""
    every: AtLeast0 = machine(0)
    """Only checkpoints at multiples of this step; 0: all that are there."""
    follow: bool = machine(False)
    """Wait for further checkpoints until the training has ended."""
    poll: NonNegative = machine(30.0)
    """With --follow: seconds between looks at the run folder."""
    weights_folder: Path | None = None
    """Folder with Inception's weights, inception-2015-12-05.pt (default: clean-fid's place)."""

    def training(self) -> str | None:
        """What the run is of, as its checkpoints name it ("run" in state.json); None: not begun.

        Raises UserError when something else is there, and for an unusable hold-out or --out.
        """
        require_holdout(self.holdout)
        if self.out.resolve() == self.run.resolve():
            raise UserError(
                f"--out {self.out}: is the run folder; name one of its own, for example "
                f"{self.run}-track"
            )
        manifest = manifest_path(self.run)
        for path in (manifest, manifest.with_name("stage.json"), manifest):
            # Twice, since at the training's end stage.json goes as the manifest comes.
            try:
                found = read_record(path)
            except FileNotFoundError:
                continue
            if found.get("stage") != "dit.train":
                raise UserError(f"--run {self.run}: of {found.get('stage')}, not of dit.train")
            return run_of(self.run, found.get("params") or {}, found.get("inputs") or {})
        return None

    def stage(self) -> Stage:
        """The settings and the lock of the folder, but no manifest is ever written.

        A track is never finished for good, since the next call may ask for more of its lines.
        """
        require_folder(self.out)
        trained = self.training()
        if trained is None:
            raise UserError(
                f"--run {self.run}: no run of dit.train there; look at the path, or give "
                "--follow to wait for one"
            )
        vae = describe_vae(self.vae).fingerprint
        inputs = {"run": trained, "holdout": sha256_file(self.holdout), "vae": vae}
        params = with_class(science(self))
        for name, default in (("against", "all"), ("loss_images", 256)):
            if params[name] == default:
                del params[name]  # which the tracks of earlier versions do not name
        return Stage(self.out, "eval.track", params, inputs)


@settings
class LossConfig:
    """Settings of eval.loss."""

    checkpoint: Path
    """Run folder of dit.train (its newest checkpoint), one checkpoint folder of it, or a file in
    the published DiT format (.pt, .safetensors)."""
    vae: Path
    """The VAE that it was trained with: folder in diffusers' layout or hub id."""
    corpus: str = place()
    """Corpus that the images come from, as prune.score takes it."""
    holdout: Path
    """Hold-out table (from data.holdout); every hold-out in it is measured."""
    subset: Path | None = None
    """Subset index that the model was trained on: the loss on its images, to set beside."""
    baseline: Path | None = None
    """Metrics file of another model from this command: adds the differences, image by image."""
    out: Path
    """Metrics file to write (.json); what each image lost goes beside it (.parquet)."""
    n: AtLeast0 = 0
    """Images of each set, drawn by a hash of their keys; 0: all of a hold-out, and as many of the
    subset as of the largest."""
    weights: Literal["both", "ema", "raw"] = "both"
    """The weights' moving average, the weights themselves, or both."""
    bins: AtLeast1 = 10
    """Equal parts of the 1,000 timesteps, each with its own mean."""
    per_bin: AtLeast1 = 2
    """Timesteps of each image in each of them."""
    seed: Seed = 0
    """Of timesteps, noise and posterior samples. Values of different seeds do not compare."""
    num_heads: AtLeast0 = 0
    """Files in the published format: attention heads; 0 knows those of the published models."""
    batch: AtLeast1 = machine(64)
    """Latents at a time through the model."""
    precision: Literal["tf32", "fp32", "bf16"] = machine("tf32")
    """Arithmetic of the DiT: bf16 is autocast; tf32 is fp32 where the hardware has no TF32."""
    device: str = machine("auto")
    """Torch device: auto, cpu, cuda, cuda:1, ..."""

    def kinds(self) -> list[Weights]:
        """Which weights are asked for."""
        both: list[Weights] = ["ema", "raw"]
        return [weights for weights in both if self.weights in ("both", weights)]

    def stage(self) -> Stage:
        """What the command makes of what. Raises UserError for inputs that are not there."""
        if self.out.suffix != ".json":
            raise UserError(f"{self.out}: the metrics file must end in .json")
        if self.bins * self.per_bin > 1000:
            raise UserError(
                f"--bins {self.bins} times --per-bin {self.per_bin}: there are 1,000 timesteps"
            )
        require_holdout(self.holdout)
        inputs = {
            "checkpoint": checkpoint_fingerprint(self.checkpoint),
            "vae": describe_vae(self.vae).fingerprint,
            "holdout": sha256_file(self.holdout),
        }
        for name in ("subset", "baseline"):
            if (given := getattr(self, name)) is not None:
                inputs[name] = fingerprint(given)
        hints = {"checkpoint": trained_on(self.checkpoint)}
        return Stage(self.out, "eval.loss", science(self), inputs, hints=hints)


def each_image(metrics: Path) -> Path:
    """The table of what each image lost, beside the metrics file of eval.loss."""
    return metrics.with_suffix(".parquet")
