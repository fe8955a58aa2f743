"""Feature extractors behind one interface: the judges of eval.judges.registry, made ready.

'inception' is the network and resizing of clean-fid ('clean' mode). DINOv2, CLIP and Git-RSCLIP are
loaded as the encoders of prune.encoders load them: every tensor checked, no code of a file run.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer

from core.errors import UserError
from core.stage import sha256_file
from data.images import descriptor, pretrained
from eval.judges.features import stream
from eval.judges.registry import distance_name, judge
from prune.encoders.base import describe_one, open_encoder
from prune.encoders.clip import ARCHITECTURES, CONFIG, ClipEncoder
from prune.encoders.vision import find_file

INCEPTION_FILE = "inception-2015-12-05.pt"
CPU_BATCH, GPU_BATCH = 16, 64  # on a CPU, what a batch's layers hand on should stay in its caches


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A function from images uint8 [n, h, w, 3] to features float64 [n, d].

    Attributes:
        name: a key of JUDGES.
        space: label of its feature space in the names of metrics, such as 'Inception'.
        fingerprint: JSON-able: name, preprocessing, licence, source and digest of the weights.
        prepare: of one image, uint8 [h, w, 3]: what the network takes. For several threads.
        finish: features [b, d] of b prepared images.
        batch: images that `finish` takes at a time.
    """

    name: str
    space: str
    fingerprint: dict[str, Any]
    prepare: Callable[[np.ndarray], np.ndarray]
    finish: Callable[[Sequence[np.ndarray]], np.ndarray]
    batch: int = CPU_BATCH

    @property
    def distance(self) -> str:
        """What the Frechet distance in this space is called."""
        return distance_name(self.space)

    def __call__(
        self,
        images: Iterable[Any],
        *,
        label: str = "features",
        decode: Callable[[Any], np.ndarray] | None = None,
        total: int | None = None,
    ) -> np.ndarray:
        """Features float64 [n, d] of n images, in order, streamed; see `features_of`."""
        if total is None and isinstance(images, Sized):
            total = len(images)

        def ready(item: Any) -> np.ndarray:
            image = item if decode is None else decode(item)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(
                    f"extractor wants images uint8 [h, w, 3], got {image.dtype} {image.shape}"
                )
            return self.prepare(image)

        name = f"{self.name}: {label}"
        return stream(images, ready, self.finish, name=name, batch=self.batch, total=total)


def load_extractor(name: str, *, weights: Path | None = None, device: str = "cpu") -> Extractor:
    """Make an extractor ready. It computes in float32; a GPU's TF32 is left as torch has it.

    Args:
        name: a key of JUDGES.
        weights: the file, or the folder that holds it (as it was published), or owner/repo of the
            Hugging Face hub; by default clean-fid's place, the package, or the judge's repository.
            The descriptor has none.
        device: 'cpu', 'cuda', 'cuda:1'.

    Raises UserError for an unknown name, and for weights that are missing or are not this judge's.
    """
    judge(name)
    if name == "inception":
        return _inception(weights, device)
    if name == "efficientnet-lite0":
        return _lite0(weights, device)
    if name == "descriptor":
        return _made(name, descriptor.DESCRIPTOR_VERSION, describe_one, np.stack)
    kind = OpenAIClip if name == "clip" else None
    source = None if weights is None else str(weights)
    encoder = kind(source) if kind else open_encoder(name, source)
    encoder.load(device, "fp32")
    core = encoder.core()
    # CMMD is defined on unit vectors; Frechet distances take the features as they are.
    finish = encoder.finish if name == "clip" else encoder.features
    return _made(name, core["weights"], encoder.prepare, finish, core["preprocessing"], device)


class OpenAIClip(ClipEncoder):
    """OpenAI's CLIP, in open_clip's format: ViT-L/14 at 336 px by default, with QuickGELU."""

    name = "clip"
    repo, file = "timm/vit_large_patch14_clip_336.openai", "open_clip_model.safetensors"
    quick_gelu: ClassVar = dict.fromkeys((*ARCHITECTURES, "as configured"), True)

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        if weights is None:  # the configuration comes to lie beside the weights
            find_file(None, revision, self.repo, CONFIG, (".json",))
        super().__init__(weights, revision, digests)


def _made(
    name: str,
    digest: str,
    prepare: Callable[[np.ndarray], np.ndarray],
    finish: Callable[[Sequence[np.ndarray]], np.ndarray],
    preprocessing: Any = None,
    device: str = "cpu",
) -> Extractor:
    """An extractor of the registry. `preprocessing`: where the weights say more than it does."""
    known = judge(name)
    fingerprint = {
        "name": name,
        "preprocessing": preprocessing or known.preprocessing,
        "licence": known.licence,
        "source": known.source,
        "digest": digest,
    }
    batch = CPU_BATCH if device == "cpu" else GPU_BATCH
    return Extractor(name, known.space, fingerprint, prepare, finish, batch)


def _lite0(weights: Path | None, device: str) -> Extractor:
    path, digest = pretrained.find_lite0(weights)
    network = pretrained.folded(pretrained.load_lite0(path)).to(device)

    def features(resized: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(resized)).to(device).permute(0, 3, 1, 2)
            x = network.forward_features(pretrained.normalised(batch))
            return network.forward_head(x, pre_logits=True).cpu().numpy()

    name = "efficientnet-lite0"
    return _made(name, digest, pretrained.resized, features, device=device)


def _inception(weights: Path | None, device: str) -> Extractor:
    folder = Path(tempfile.gettempdir())
    if weights is not None:
        folder = weights if weights.is_dir() else weights.parent
        if weights.is_file() and weights.name != INCEPTION_FILE:
            raise UserError(f"{weights}: clean-fid wants the file name {INCEPTION_FILE}; rename it")
        if not (folder / INCEPTION_FILE).is_file():
            raise UserError(f"{weights}: {INCEPTION_FILE} is not there")
    path = folder / INCEPTION_FILE
    try:
        network = InceptionV3W(str(folder), download=not path.is_file(), resize_inside=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Inception weights cannot be loaded or downloaded ({error}); download "
            f"{INCEPTION_FILE} by hand (see clean-fid's README) and pass --weights FOLDER, "
            "or use --extractor efficientnet-lite0"
        ) from None
    network = network.to(device).eval()

    def features(resized: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(device)
            return network(batch).cpu().numpy()

    # Pillow's antialiased bicubic on float channels, to 299.
    resize = build_resizer("clean")
    return _made("inception", sha256_file(path), resize, features, device=device)
