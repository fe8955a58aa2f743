"""The autoencoder's training loop: step, validate, keep the best, go on after a kill.

Order, crops, flips and noise are functions of (seed, step, slot), see dit.training.order. The
checkpoint is one file, replaced atomically; beside it lie the best weights so far. A killed run
repeats the steps since its last checkpoint and ends with the same bytes (on a CPU; GPU kernels may
differ in the last bit).
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from core.atomic import atomic_path, write_text
from core.errors import UserError
from core.progress import progress
from dit.training.order import Picks, Stream
from dit.vae.autoencoder import to_uint8, to_unit
from dit.vae.init import start_as_pyramid
from dit.vae.losses import PatchDiscriminator, adaptive_weight, hinge_loss, make_perceptual

if TYPE_CHECKING:
    from dit.vae.recipes import Recipe

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
STATS = "stats.jsonl"
Batches = Iterator[tuple[Picks, np.ndarray]]


def build(recipe: Recipe, channels: int, seed: int) -> Any:
    """The untrained AutoencoderKL of a recipe; equal seeds give equal weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(recipe.block_out_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(recipe.block_out_channels),
            layers_per_block=recipe.layers_per_block,
            latent_channels=recipe.latent_channels,
            norm_num_groups=recipe.norm_groups,
            mid_block_add_attention=recipe.mid_attention,
            sample_size=recipe.crop,
        )
    if recipe.start == "pyramid":
        start_as_pyramid(model, logvar=-6.0)  # noise of 1/20: the image is not lost in it
    return model


class VaeTrainer:
    """Everything a run carries from step to step.

    Args:
        recipe: the settings (see dit.vae.recipes.Recipe).
        channels: image bands, 3 or 4.
        seed: of the initial weights.
        folder: where checkpoint, best weights and stats go.
        device: torch device. precision: 'fp32' or 'bf16' (autocast).
    """

    def __init__(
        self,
        recipe: Recipe,
        channels: int,
        seed: int,
        folder: Path,
        device: str = "cpu",
        precision: str = "fp32",
        checkpointing: bool = False,
    ) -> None:
        self.recipe, self.folder, self.device = recipe, folder, torch.device(device)
        self.half = precision == "bf16"
        self.model = build(recipe, channels, seed).to(self.device)
        if checkpointing:
            self.model.enable_gradient_checkpointing()
        if self.device.type == "cpu":  # a tenth faster there
            self.model = self.model.to(memory_format=torch.channels_last)
        self.optimizer = self._adam(self.model)
        self.perceptual = make_perceptual(recipe.perceptual, self.device)
        self.discriminator: PatchDiscriminator | None = None
        if recipe.adversarial_start:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)
                self.discriminator = PatchDiscriminator(channels).to(self.device)
            self.critic = self._adam(self.discriminator)
        self.step = 0
        self.best: dict[str, float] = {}

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        betas = (self.recipe.beta1, self.recipe.beta2)
        return torch.optim.Adam(module.parameters(), lr=self.recipe.learning_rate, betas=betas)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant, or half a cosine down to a fiftieth."""
        recipe = self.recipe
        rate = recipe.learning_rate * min(1.0, (step + 1) / max(1, recipe.warmup))
        if recipe.schedule == "cosine":
            rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        return rate

    def train(self, batches: Batches, validation: np.ndarray, checkpoint_every: int) -> None:
        """Run to recipe.steps.

        Args:
            batches: (picks, uint8 N x H x W x C) of the steps from self.step on.
            validation: uint8 N x H x W x C.
            checkpoint_every: steps; besides, every validation is a checkpoint.
        """
        recipe = self.recipe
        self._trim_stats()
        with progress(total=recipe.steps, initial=self.step, name="VAE", unit="step") as bar:
            for picks, images in batches:
                line = self._update(picks, images)
                self.step += 1
                bar.update()
                last = self.step == recipe.steps
                if self.step % recipe.validate_every == 0 or last:
                    line |= self._validate(validation)
                if "val_loss" in line or self.step % recipe.log_every == 0:
                    self._log(line)
                    bar.set_postfix_str(f"L1 {line['l1']:.4f}", refresh=False)
                if "val_loss" in line or (checkpoint_every and self.step % checkpoint_every == 0):
                    self.save()

    def _update(self, picks: Picks, images: np.ndarray) -> dict[str, Any]:
        recipe, step = self.recipe, self.step
        x = to_unit(augment(images, picks, recipe.crop)).to(self.device)
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        side = recipe.crop >> (len(recipe.block_out_channels) - 1)
        noise = picks.noise((recipe.latent_channels, side, side), Stream.POSTERIOR)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            posterior = self.model.encode(x).latent_dist
            mean, std, logvar = (
                value.float() for value in (posterior.mean, posterior.std, posterior.logvar)
            )
            y = self.model.decode(mean + std * noise.to(self.device)).sample
        y = y.float()
        pixels = x[0].numel()  # a sum over pixels and channels is `pixels` times a mean
        l1 = (y - x).abs().mean()
        perceptual = self.perceptual(x, y).mean()
        kl = 0.5 * (mean.square() + std.square() - 1.0 - logvar).sum() / len(x)  # nats an image
        reconstruction = pixels * (l1 + recipe.perceptual_weight * perceptual)
        loss = reconstruction + recipe.kl_weight * kl
        line: dict[str, Any] = {
            "step": step + 1,
            "loss": loss.item() / pixels,
            "l1": l1.item(),
            "perceptual": perceptual.item(),
            "kl": kl.item(),
            "learning_rate": rate,
        }
        adversarial = self.discriminator is not None and step + 1 >= recipe.adversarial_start
        if adversarial:
            assert self.discriminator is not None
            fooled = -self.discriminator(y).mean()
            weight = adaptive_weight(reconstruction, fooled, self.model.decoder.conv_out.weight)
            loss = loss + recipe.adversarial_weight * weight * fooled
            line |= {"generator": fooled.item(), "adaptive_weight": weight.item()}
        if not math.isfinite(loss.item()):
            raise UserError(
                f"step {step + 1}: the loss is {loss.item()}; use a lower --learning-rate than "
                f"{recipe.learning_rate:g} and another --out"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if adversarial:
            assert self.discriminator is not None
            self.critic.zero_grad(set_to_none=True)
            critic = hinge_loss(self.discriminator(x), self.discriminator(y.detach()))
            critic.backward()
            for group in self.critic.param_groups:
                group["lr"] = rate
            self.critic.step()
            line["discriminator"] = critic.item()
        return line

    def _validate(self, validation: np.ndarray) -> dict[str, float]:
        """Validation loss, and the best weights kept where it is the lowest so far."""
        figures = self.evaluate(validation)
        if not self.best or figures["val_loss"] < self.best["val_loss"]:
            self.best = {"step": self.step, **figures}
            _save(self.folder / BEST, {"step": self.step, "model": self.model.state_dict()})
        return figures

    def evaluate(self, images: np.ndarray) -> dict[str, float]:
        """val_loss = L1 + perceptual, of reconstructions from the posterior mean; val_psnr (dB).

        No KL and no adversarial term; whole images, no crops.
        """
        loss, squared = 0.0, 0.0
        with torch.no_grad():
            for start in range(0, len(images), 32):
                x = to_unit(images[start : start + 32]).to(self.device)
                y = self.model.decode(self.model.encode(x).latent_dist.mode()).sample
                each = (y - x).abs().mean(dim=(1, 2, 3))
                each = each + self.recipe.perceptual_weight * self.perceptual(x, y)
                loss += each.double().sum().item()
                error = (y.clamp(-1, 1) - x) / 2
                squared += error.square().mean(dim=(1, 2, 3)).double().sum().item()
        psnr = -10 * math.log10(max(squared / len(images), 1e-10))
        return {"val_loss": loss / len(images), "val_psnr": psnr}

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """uint8 reconstructions of uint8 images N x H x W x C, from the posterior mean."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), 32):
                x = to_unit(images[start : start + 32]).to(self.device)
                y = self.model.decode(self.model.encode(x).latent_dist.mode()).sample
                parts.append(to_uint8(y))
        return np.concatenate(parts)

    def latent_scale(self, batches: Iterator[np.ndarray]) -> float:
        """1 / standard deviation of the posterior's samples over these uint8 images.

        Exact for the images given: Var[mean + std * noise] = E[mean^2 + std^2] - E[mean]^2.
        """
        count, total, squares = 0, 0.0, 0.0
        with torch.no_grad():
            for images in batches:
                posterior = self.model.encode(to_unit(images).to(self.device)).latent_dist
                mean, std = posterior.mean.double(), posterior.std.double()
                count += mean.numel()
                total += mean.sum().item()
                squares += (mean.square() + std.square()).sum().item()
        return 1.0 / math.sqrt(squares / count - (total / count) ** 2)

    def save(self) -> None:
        """Replace the checkpoint."""
        state = {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.discriminator is not None:
            state["discriminator"] = self.discriminator.state_dict()
            state["critic"] = self.critic.state_dict()
        _save(self.folder / CHECKPOINT, state)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one that can be read."""
        state = _load(self.folder / CHECKPOINT, self.device)
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.critic.load_state_dict(state["critic"])
        self.step, self.best = state["step"], state["best"]
        return True

    def load_best(self) -> None:
        """Put the weights with the lowest validation loss in place."""
        state = _load(self.folder / BEST, self.device)
        if state is None or state["step"] != self.best["step"]:
            raise UserError(f"{self.folder / BEST}: damaged; delete {self.folder} and train again")
        self.model.load_state_dict(state["model"])

    def _trim_stats(self) -> None:
        """Drop the lines that a killed run wrote after its last checkpoint."""
        path = self.folder / STATS
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if not line.endswith("\n") or json.loads(line)["step"] > self.step:
                    break
                kept.append(line)
        write_text(path, "".join(kept))

    def _log(self, line: dict[str, Any]) -> None:
        with open(self.folder / STATS, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def augment(images: np.ndarray, picks: Picks, crop: int) -> np.ndarray:
    """Each slot's random crop, mirrored or not: uint8 N x H x W x C -> N x crop x crop x C."""
    out = np.empty((len(images), crop, crop, images.shape[3]), dtype=np.uint8)
    room = images.shape[1] - crop + 1
    corners = np.floor(picks.uniforms[:, :2] * room).astype(int)
    for row, (image, (top, left), flip) in enumerate(
        zip(images, corners, picks.flips, strict=True)
    ):
        part = image[top : top + crop, left : left + crop]
        out[row] = part[:, ::-1] if flip else part
    return out


def _save(path: Path, state: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _load(path: Path, device: torch.device) -> dict[str, Any] | None:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        print(f"[dit.train_vae] {path}: unreadable ({error}); not used", flush=True)
        return None
