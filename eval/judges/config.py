"""Settings of eval.evaluate. Light to import: no torch, no arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.settings import (
    AtLeast1,
    machine,
    place,
    science,
    settings,
)
from core.stage import (
    Stage,
    fingerprint,
    manifest_path,
    read_manifest,
    sha256_file,
)

ExtractorName = Literal["inception", "efficientnet-lite0", "descriptor"]
Backbone = Literal["alex", "vgg", "random"]


def require_holdout(holdout: Path) -> None:
    """Raise UserError unless the hold-out's file is there."""
    if not holdout.is_file():
        raise UserError(f"--holdout {holdout}: no such file; make it with data.holdout")


@settings
class EvaluateConfig:
    """Settings of eval.evaluate: either --generated with --corpus and --holdout, or --pairs."""

    out: Path
    """Metrics file to write (.json)."""
    generated: Path | None = None
    """Folder of generated PNG images (from dit.sample), judged against the hold-out."""
    corpus: str | None = place(None)
    """Corpus that the hold-out images come from, as prune.score takes it."""
    holdout: Path | None = None
    """Hold-out table (from data.holdout)."""
    vae: str | None = None
    """VAE of the generated images: its reconstructions of the hold-out give the floor that no
    generator on its latents can be expected to beat."""
    image_size: AtLeast1 = 256
    """Side of the images (pixels)."""
    pairs: Path | None = None
    """Folder with generated/ and target/ of the same names (from downstream.evaluate)."""
    extractor: ExtractorName = "inception"
    """Feature space: inception (the distance is FID) or descriptor (FD-descriptor)."""
    weights: Path | None = None
    """Folder with Inception's weights, inception-2015-12-05.pt (default: clean-fid's place)."""
    lpips_backbone: Backbone = "alex"
    """LPIPS backbone: alex, vgg, or random (labelled; needs no download). The paper names none."""
    device: str = machine("auto")
    """Where networks run: auto, cpu, cuda (machine setting)."""

    def stage(self) -> Stage:
        """What the command makes of what; refuses a mixture of the two modes."""
        if self.out.suffix != ".json":
            raise UserError(f"{self.out}: the metrics file must end in .json")
        return Stage(self.out, "eval.evaluate", science(self), self._inputs())

    def _inputs(self) -> dict[str, str]:
        if self.pairs is not None:
            if self.generated or self.holdout:
                raise UserError("give either --pairs, or --generated with --corpus and --holdout")
            return {"pairs": fingerprint(self.pairs)}
        if not (self.generated and self.corpus and self.holdout):
            raise UserError("--generated needs --corpus and --holdout (or give --pairs FOLDER)")
        require_holdout(self.holdout)
        inputs = {"generated": fingerprint(self.generated), "holdout": sha256_file(self.holdout)}
        if self.vae is not None:
            local = Path(self.vae)
            inputs["vae"] = fingerprint(local) if manifest_path(local).exists() else self.vae
        return inputs


def target_folder(pairs: Path) -> str:
    """The folder of ground-truth images of a finished downstream.evaluate.

    'target', or 'reference', as version 0.1 called it. Raises UserError when it is not finished.
    """
    former = any(name.startswith("reference/") for name in read_manifest(pairs)["files"])
    return "reference" if former else "target"
