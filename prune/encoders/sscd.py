"""SSCD (Pizzi et al. 2022, arXiv 2202.10261): descriptors for finding copies of an image.

For deduplication (prune.select --copies), not for centroids: it looks at what makes an image this
very one. Published as TorchScript (CC-BY-NC), which is a program: take it from its publisher only,
and check its digest. Above a cosine of 0.75 two images are copies at 90 % precision on the
DISC set of photographs; on homogeneous tiles expect more false ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import UserError
from core.hub import local_path
from prune.encoders.vision import BILINEAR, IMAGENET, VisionEncoder, digest_files

FILE = "sscd_disc_mixup.torchscript.pt"


class SSCD(VisionEncoder):
    """Copy-detection descriptor of a ResNet50 (512-d), or the large model's (1024-d)."""

    name = "sscd"
    libraries = ("torch", "pillow")
    image_size, crop, resample = 320, False, BILINEAR

    def __init__(
        self,
        weights: str | None = None,
        revision: str | None = None,
        digests: Path | None = None,
    ) -> None:
        how = "bash scripts/download.sh sscd --out DIR, and --weights DIR"
        if weights is None or revision is not None:
            raise UserError(f"--encoder sscd is on no hub: {how}")
        path = local_path(weights, "--weights")
        if path is None:
            raise UserError(f"--weights {weights}: no such file or folder; {how}")
        if path.is_dir():
            found = sorted(path.glob("*.torchscript.pt"))
            chosen = path / FILE if path / FILE in found else None
            if chosen is None and len(found) != 1:
                raise UserError(f"{weights}: {len(found)} files *.torchscript.pt; {how}")
            path = chosen or found[0]
        self.path = path
        self.dim = 1024 if "large" in self.path.name else 512
        self.pixels = {
            "resize": f"direct to {self.image_size} x {self.image_size}, Pillow bilinear",
            "scale": 1 / 255,
            **IMAGENET,
        }
        self.digest = digest_files([self.path], digests)

    def build(self) -> Any:
        import torch

        try:
            return torch.jit.load(str(self.path), map_location="cpu").float().eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"{self.path}: no TorchScript that can be read ({error})") from None
