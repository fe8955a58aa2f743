"""Settings of eval.evaluate. Light to import: no torch, no arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.settings import (
    AtLeast0,
    AtLeast1,
    machine,
    place,
    renamed,
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

ExtractorName = Literal[
    "inception", "dinov2", "clip", "git-rsclip", "efficientnet-lite0", "descriptor"
]  # the keys of registry.JUDGES
PerceptualName = Literal["alex", "vgg", "efficientnet-lite0"]


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
    """Folder of generated PNG images (from dit.sample), judged against each hold-out."""
    corpus: str | None = place(None)
    """Corpus that the hold-out images come from, as prune.score takes it."""
    holdout: Path | None = None
    """Hold-out file (from data.holdout): pool, balanced, informative, as far as it has them."""
    subset: Path | None = None
    """Subset index that the generator was trained on. A judge that chose it is refused; of
    --generated, real images of it give the floors, and say whether generated ones are copies."""
    training_images: AtLeast0 = 50_000
    """Training images that copies are looked for in, drawn by a hash of their key; 0: all."""
    allow_chooser: bool = False
    """Let an extractor judge a subset that it chose; its values are labelled."""
    vae: str | None = None
    """VAE of the generated images: its reconstructions of the hold-out give the floor that no
    generator on its latents can be expected to beat."""
    image_size: AtLeast1 = 256
    """Side of the images (pixels)."""
    pairs: Path | None = None
    """Folder with generated/ and target/ of the same names (from downstream.evaluate)."""
    extractor: ExtractorName = "inception"
    """Who judges (eval/judges/registry.py): inception's distance is FID, another's is FD-<space>.
    efficientnet-lite0 and descriptor need no model hub."""
    weights: Path | None = None
    """Weights of --extractor (a file, or the folder that holds it), where they are not at their
    own place: clean-fid's, the package's, or the hub's. LPIPS looks into the folder, too."""
    perceptual: PerceptualName = renamed("alex", "lpips_backbone")
    """Perceptual distance of pairs: LPIPS on alex or vgg (the paper names neither), or the
    uncalibrated one in efficientnet-lite0's feature maps, which needs no model hub."""
    device: str = machine("auto")
    """Where networks run: auto, cpu, cuda (machine setting)."""
    cache: Path | None = machine(None)
    """Folder of features that are kept for further calls; default: features, beside --out."""

    def cache_folder(self) -> Path:
        """Where features are kept."""
        return self.cache or self.out.parent / "features"

    def stage(self) -> Stage:
        """What the command makes of what; refuses a mixture of the two modes."""
        if self.out.suffix != ".json":
            raise UserError(f"{self.out}: the metrics file must end in .json")
        return Stage(self.out, "eval.evaluate", science(self), self._inputs())

    def _inputs(self) -> dict[str, str]:
        if self.pairs is not None:
            if self.generated or self.holdout:
                raise UserError("give either --pairs, or --generated with --corpus and --holdout")
            given = {"pairs": self.pairs, "subset": self.subset}
            return {name: fingerprint(path) for name, path in given.items() if path is not None}
        if not (self.generated and self.corpus and self.holdout):
            raise UserError("--generated needs --corpus and --holdout (or give --pairs FOLDER)")
        require_holdout(self.holdout)
        inputs = {"generated": fingerprint(self.generated), "holdout": sha256_file(self.holdout)}
        if self.subset is not None:
            inputs["subset"] = fingerprint(self.subset)
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


@settings
class ReconstructionConfig:
    """Settings of eval.reconstruction."""

    vae: str
    """The VAE: a folder in diffusers' layout, a shipped name or a hub id."""
    corpus: str = place()
    """Corpus that the hold-out images come from, as prune.score takes it."""
    holdout: Path
    """Hold-out file (from data.holdout): each of its hold-outs is measured."""
    out: Path
    """Metrics file to write (.json); a sheet of pictures lies beside it (.png)."""
    image_size: AtLeast1 = 256
    """Side of the images (pixels)."""
    extractor: ExtractorName = "inception"
    """Who judges, see eval.evaluate: inception's distance is the rFID."""
    weights: Path | None = None
    """Weights of --extractor, where they are not at their own place."""
    device: str = machine("auto")
    """Where networks run: auto, cpu, cuda (machine setting)."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        from dit.vae.autoencoder import describe_vae

        if self.out.suffix != ".json":
            raise UserError(f"{self.out}: the metrics file must end in .json")
        require_holdout(self.holdout)
        inputs = {
            "vae": describe_vae(self.vae).fingerprint,
            "holdout": sha256_file(self.holdout),
        }
        return Stage(self.out, "eval.reconstruction", science(self), inputs)
