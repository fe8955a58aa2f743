"""The autoencoder in front of the DiT: any diffusers AutoencoderKL, local or from the hub.

The DiT works on latents scaled to about unit variance, z = scale * (mean + std * noise)
(Rombach et al. 2022, section 3.1 and appendix G; the scale is `scaling_factor` of config.json).
A latent is only meaningful with the very weights and scale that made it, so both are in the
VAE's `fingerprint`, which the latent store and every checkpoint record and compare.

Commands that find their work done call `describe_vae` alone: torch and diffusers, which take
seconds, are imported where a model is.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UserError
from core.hub import hub_folder, local_path
from core.manifest import verify_file
from core.stage import digest_of, sha256_file
from core.weights import plain_folder

if TYPE_CHECKING:
    import torch

SD_VAE = "stabilityai/sd-vae-ft-ema"
SHIPPED = Path(__file__).parent / "shipped"
"""Small VAEs that come with the code, a folder each; --vae takes their names."""
DEFAULT_SCALE = 0.18215  # what diffusers assumes for a config without scaling_factor (SD's VAEs)
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# The keys of config.json that change what a latent means, with diffusers' defaults.
_ESSENTIALS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}


@dataclasses.dataclass(frozen=True)
class VaeInfo:
    """What a VAE folder says of itself, read without torch.

    Attributes:
        folder: local folder with config.json and the weights.
        fingerprint: hex digest of the weights file's bytes, the architecture and the scale.
        scale: factor that brings posterior samples to about unit standard deviation.
        factor: image pixels per latent pixel along a side.
        latent_channels, in_channels: channels of the latent and of the image.
    """

    folder: Path
    fingerprint: str
    scale: float
    factor: int
    latent_channels: int
    in_channels: int

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a square image. Raises UserError if it does not divide."""
        if image_size % self.factor:
            raise UserError(
                f"image size {image_size} px is no multiple of the VAE's factor {self.factor} "
                f"({self.folder}); choose one that is, for example "
                f"{max(self.factor, image_size // self.factor * self.factor)}"
            )
        side = image_size // self.factor
        return self.latent_channels, side, side

    def record(self) -> dict[str, Any]:
        """What manifests and checkpoints keep of it, JSON-able."""
        names = ("fingerprint", "scale", "latent_channels", "in_channels", "factor")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Vae(VaeInfo):
    """A loaded AutoencoderKL, in eval mode and without gradients.

    Attributes:
        model: the diffusers AutoencoderKL, on its device.
    """

    model: Any

    def encode(
        self, images: torch.Tensor, batch_size: int = 32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and standard deviation, both float32 N x C x h x w, NOT scaled.

        Args:
            images: float N x in_channels x H x W in [-1, 1].
            batch_size: images at a time through the model (bounds memory).

        diffusers clamps the log-variance to [-30, 20] before std = exp(logvar / 2).
        """
        import torch

        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"expected N x {self.in_channels} x H x W, got {tuple(images.shape)}")
        means, stds = [], []
        with torch.inference_mode():
            for chunk in images.split(batch_size):
                chunk = chunk.to(device=self.model.device, dtype=self.model.dtype)
                posterior = self.model.encode(chunk).latent_dist
                means.append(posterior.mean.float())
                stds.append(posterior.std.float())
        return torch.cat(means), torch.cat(stds)

    def decode(self, latents: torch.Tensor, batch_size: int = 32) -> np.ndarray:
        """Images from scaled latents: uint8 NumPy array N x H x W x in_channels.

        Args:
            latents: float N x C x h x w, scaled (as the DiT makes them).
            batch_size: latents at a time through the model (bounds memory).

        Rounding is that of ADM and DiT, see `to_uint8`.
        """
        import torch

        if latents.ndim != 4 or latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"expected N x {self.latent_channels} x h x w, got {tuple(latents.shape)}"
            )
        images = []
        with torch.inference_mode():
            for chunk in latents.split(batch_size):
                chunk = (chunk.to(self.model.device).float() / self.scale).to(self.model.dtype)
                images.append(to_uint8(self.model.decode(chunk).sample.float()))
        return np.concatenate(images)


def to_unit(images: np.ndarray) -> torch.Tensor:
    """uint8 N x H x W x C -> float32 tensor N x C x H x W in [-1, 1] (x / 127.5 - 1)."""
    import torch

    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).float().div_(127.5).sub_(1.0)


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """float N x C x H x W in about [-1, 1] -> uint8 NumPy array N x H x W x C.

    clamp(127.5 x + 128, 0, 255), truncated. Raises UserError for values that are not finite.
    """
    import torch

    if not torch.isfinite(images).all():
        raise UserError("the images contain NaN or infinite values; the model has diverged")
    pixels = (127.5 * images + 128.0).clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def describe_vae(path_or_hub_id: Path | str) -> VaeInfo:
    """Fingerprint, scale and shape of a VAE, without loading it (no torch import).

    Args:
        path_or_hub_id: folder in diffusers' layout; the name of one in SHIPPED ('mini-f8'); or a
            hub id such as 'stabilityai/sd-vae-ft-ema' (from the local hub cache, else downloaded).

    Raises UserError when it cannot be found, is no AutoencoderKL, or normalises its latents in
    a way other than one scale; also when it has a manifest and is not as that says.
    """
    folder = _find(str(path_or_hub_id))
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: missing; expected a diffusers AutoencoderKL folder") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: not the config of a model; expected an AutoencoderKL's")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise UserError(f"{path}: is a {kind}; this project uses AutoencoderKL")
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if config.get(key) is not None:
            raise UserError(
                f"{path}: {key} = {config[key]} is not supported; only a VAE whose latents are "
                "normalised by scaling_factor alone can be used"
            )
    given = config.get("scaling_factor")
    try:
        scale = DEFAULT_SCALE if given is None else float(given)
    except (TypeError, ValueError):
        scale = 0.0
    if not 0.0 < scale < float("inf"):
        raise UserError(f"{path}: scaling_factor {given!r} must be a positive number")
    essentials = {key: config.get(key, default) for key, default in _ESSENTIALS.items()}
    if not isinstance(essentials["block_out_channels"], list):
        raise UserError(
            f"{path}: block_out_channels {essentials['block_out_channels']!r} must be a list"
        )
    if essentials["in_channels"] != essentials["out_channels"]:
        raise UserError(
            f"{path}: in_channels {essentials['in_channels']} differs from out_channels "
            f"{essentials['out_channels']}"
        )
    for file in (path, weights_file(folder)):
        verify_file(file, folder)  # of a VAE that dit.train_vae made
    weights = sha256_file(weights_file(folder))
    made_of = {**essentials, "scaling_factor": scale, "weights": weights}
    return VaeInfo(
        folder=folder,
        fingerprint=digest_of(made_of),
        scale=scale,
        factor=2 ** (len(essentials["block_out_channels"]) - 1),
        latent_channels=int(essentials["latent_channels"]),
        in_channels=int(essentials["in_channels"]),
    )


def weights_file(folder: Path) -> Path:
    """The file of a VAE's weights. Raises UserError when there is none."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder}: no weights there ({' or '.join(WEIGHTS)})")
    return found


def load_vae(path_or_hub_id: Path | str, device: str | torch.device = "cpu") -> Vae:
    """Load a VAE, in float32, for encoding and decoding.

    Args:
        path_or_hub_id: see `describe_vae`.
        device: where the model runs.

    Raises UserError as `describe_vae` does, and when the weights do not fit the config.
    """
    import torch

    info = describe_vae(path_or_hub_id)
    # Channels last: convolutions are 1.5 times as fast on a CPU, and tensor cores want it too.
    model = _load_model(info.folder).to(device=device, memory_format=torch.channels_last)
    return Vae(**dataclasses.asdict(info), model=model.eval().requires_grad_(False))


def _load_model(folder: Path) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    try:
        with plain_folder(folder, [weights_file(folder)]) as plain:
            model, report = AutoencoderKL.from_pretrained(
                str(plain), local_files_only=True, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: the VAE cannot be loaded: {error}") from None
    # diffusers only warns here and leaves random weights in place.
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            names = ", ".join(str(name) for name in list(report[problem])[:3])
            raise UserError(
                f"{folder}: the weights do not fit config.json: "
                f"{len(report[problem])} {problem.replace('_', ' ')} ({names}, ...)"
            )
    return model


def _find(source: str) -> Path:
    """The local folder of what --vae names: a path, one of SHIPPED, the hub's cache, a download."""
    wanted = ["config.json", WEIGHTS[0]]
    if source in shipped() and not Path(source).exists():
        return SHIPPED / source
    try:
        folder = local_path(source, "--vae")
        return folder or hub_folder(
            source, wanted, lambda found: all((found / name).is_file() for name in wanted), "--vae"
        )
    except UserError as error:
        raise UserError(
            f"{error}; or train a VAE: python -m dit.train_vae; or give "
            f"--vae {' or '.join(shipped())}, which is here"
        ) from None


def shipped() -> list[str]:
    """Names of the VAEs that come with the code."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
