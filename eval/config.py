"""Settings of eval's commands. Light to import: no torch, no arrays, no drawing."""

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
    renamed,
    science,
    settings,
)
from core.stage import (
    Stage,
    digest_of,
    fingerprint,
    manifest_path,
    read_manifest,
    read_record,
    require_folder,
    sha256_file,
)
from dit.sampling.config import DrawConfig
from dit.vae.autoencoder import describe_vae
from eval.paper.numbers import PAPER, load_experiment

ExtractorName = Literal["inception", "descriptor"]
Backbone = Literal["alex", "vgg", "random"]
TASKS = ("generation", "sr", "sis")


def _require_holdout(holdout: Path) -> None:
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
        _require_holdout(self.holdout)
        inputs = {"generated": fingerprint(self.generated), "holdout": sha256_file(self.holdout)}
        if self.vae is not None:
            local = Path(self.vae)
            inputs["vae"] = fingerprint(local) if manifest_path(local).exists() else self.vae
        return inputs


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
        _require_holdout(self.holdout)
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
            return digest_of({name: found.get(name) for name in ("params", "inputs")})
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
        return Stage(self.out, "eval.track", science(self), inputs)


@settings
class TableConfig:
    """Settings of eval.table."""

    experiment: str
    """Name of the experiment in eval/paper/paper.yaml, for example git10m_85."""
    run: Path
    """Run folder with metrics/<method>-<task>.json."""
    out: Path
    """Markdown file to write; the same numbers go beside it as .json."""
    methods: tuple[str, ...] = renamed(("rsprune", "random"), "arms")
    """Selection methods to show, in order."""
    profile: Literal["paper", "mini"] = "paper"
    """mini or paper. Only values of the paper profile stand in the column that is compared."""

    def metrics(self) -> dict[tuple[str, str], Path]:
        """(method, task) -> its metrics file, of those that are there."""
        folder = self.run / "metrics"
        files = {(m, task): folder / f"{m}-{task}.json" for m in self.methods for task in TASKS}
        return {cell: path for cell, path in files.items() if path.exists()}

    def stage(self) -> Stage:
        """What the command makes of what."""
        load_experiment(self.experiment)
        if not self.run.is_dir():
            raise UserError(f"--run {self.run}: no such folder")
        if self.out.suffix != ".md":
            near = self.out.with_suffix(".md")
            raise UserError(f"--out {self.out}: name a Markdown file, for example {near}")
        inputs = {f"{m}-{task}": sha256_file(path) for (m, task), path in self.metrics().items()}
        inputs["paper.yaml"] = sha256_file(PAPER)
        return Stage(self.out, "eval.table", science(self), inputs, replace=True)


@settings
class PicturesConfig:
    """Settings of eval.pictures."""

    run: Path
    """Run folder with scores/, subsets/, samples/, sr-eval/ and sis-eval/."""
    corpus: str = place()
    """Corpus that the scores are of, as prune.score takes it, for tiles beside the histogram."""
    out: Path
    """Folder for the pictures (PNG)."""
    methods: tuple[str, ...] = renamed(("rsprune", "random"), "arms")
    """Selection methods to show, in order."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        require_folder(self.out)
        inputs = {"scores": fingerprint(self.run / "scores")}
        for method in self.methods:
            inputs[f"{method} subset"] = sha256_file(self.run / "subsets" / f"{method}.parquet")
            inputs[f"{method} samples"] = fingerprint(self.run / "samples" / method)
            for task in ("sr", "sis"):
                inputs[f"{method} {task}"] = fingerprint(self.run / f"{task}-eval" / method)
        return Stage(self.out, "eval.pictures", science(self), inputs, replace=True)


def target_folder(pairs: Path) -> str:
    """The folder of ground-truth images of a finished downstream.evaluate.

    'target', or 'reference', as version 0.1 called it. Raises UserError when it is not finished.
    """
    former = any(name.startswith("reference/") for name in read_manifest(pairs)["files"])
    return "reference" if former else "target"
