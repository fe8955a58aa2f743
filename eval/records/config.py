"""Settings of eval.track. Light to import: no torch, no arrays, no drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from core.errors import UserError
from core.settings import (
    AtLeast0,
    AtLeast1,
    NonNegative,
    machine,
    place,
    science,
    settings,
)
from core.stage import (
    Stage,
    manifest_path,
    read_record,
    require_folder,
    sha256_file,
)
from dit.sampling.config import DrawConfig, with_class
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
    n: Annotated[int, Field(ge=2)] = 1000
    """Images drawn for each line. Frechet distances of different counts do not compare."""
    extractor: ExtractorName = "inception"
    """Feature space: inception (the distance is FID) or descriptor (FD-descriptor)."""
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
        return Stage(self.out, "eval.track", with_class(science(self)), inputs)
