"""The autoencoder's training loop: step, validate, keep the best, continue after a kill.

Order, crops, flips and noise are functions of (seed, step, slot), see dit.training.order; record
and checkpoints are those of the DiT's training, and a checkpoint also holds the best weights so
far. A killed run repeats the steps since its last checkpoint and ends with the same bytes (on a
CPU; GPU kernels may differ in the last bit).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from core.errors import UserError
from core.progress import progress
from dit.training import checkpoint
from dit.training.config import schedule_factor
from dit.training.order import BatchPlan, Stream
from dit.training.processes import stop_signals
from dit.training.runlog import RunLog
from dit.vae.autoencoder import Vae, to_uint8, to_unit
from dit.vae.init import start_as_pyramid
from dit.vae.losses import PatchDiscriminator, adaptive_weight, hinge_loss, make_perceptual
from dit.vae.recipes import Recipe

Batches = Iterator[tuple[BatchPlan, np.ndarray]]
_FLOOR = 0.02  # of the cosine: the last steps still learn
_BATCH = 32  # images without gradients at a time


def build(recipe: Recipe, channels: int, seed: int) -> Any:
    """The untrained AutoencoderKL of a recipe; equal seeds give equal weights."""
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
        device: torch device. precision: 'fp32' or 'bf16' (autocast).
        recompute: recompute activations in the backward pass.
    """

    def __init__(
        self,
        recipe: Recipe,
        channels: int,
        seed: int,
        device: str = "cpu",
        precision: str = "fp32",
        recompute: bool = False,
    ) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.half = precision == "bf16"
        self.model = build(recipe, channels, seed).to(self.device)
        if recompute:
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
        self.best_weights: dict[str, Tensor] = {}

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        betas = (self.recipe.beta1, self.recipe.beta2)
        return torch.optim.Adam(module.parameters(), lr=self.recipe.learning_rate, betas=betas)

    def start_from(self, vae: Vae) -> None:
        """Take the weights of another VAE. Raises UserError when it is of another shape."""
        state, own = vae.model.state_dict(), self.model.state_dict()
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != {name: value.shape for name, value in own.items()}:
            raise UserError(
                f"--init {vae.folder}: another network (channels "
                f"{', '.join(map(str, vae.model.config.block_out_channels))}, here "
                f"{', '.join(map(str, self.recipe.block_out_channels))}); see --preset"
            )
        self.model.load_state_dict(state)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant, or half a cosine down to a fiftieth; `step` from 0."""
        recipe = self.recipe
        rate = recipe.learning_rate * min(1.0, (step + 1) / max(1, recipe.warmup))
        return rate * schedule_factor(recipe.schedule, step, recipe.steps, _FLOOR)

    def train(
        self, batches: Batches, validation: np.ndarray, log: RunLog, checkpoint_every: int = 0
    ) -> bool:
        """Run to recipe.steps. Returns False when SIGTERM or SIGUSR1 stopped it before.

        Args:
            batches: (plan, uint8 N x H x W x C) of the steps from self.step on.
            validation: uint8 N x H x W x C.
            log: of the run folder, where the checkpoints go too.
            checkpoint_every: steps; besides, every validation is a checkpoint.
        """
        recipe, begun = self.recipe, time.perf_counter()
        bar = progress(total=recipe.steps, initial=self.step, name="VAE", unit="step")
        with bar, stop_signals() as asked:
            for plan, images in batches:
                line = self._update(plan, images)
                self.step += 1
                bar.update()
                last = self.step == recipe.steps
                validated = last or self.step % recipe.validate_every == 0
                if validated:
                    line |= self._validate(validation)
                if validated or self.step % recipe.log_every == 0:
                    seconds = round(time.perf_counter() - begun, 3)
                    log.write({**line, "timing": {"seconds": seconds}})
                    bar.set_postfix_str(f"L1 {line['l1']:.4f}", refresh=False)
                stop = asked.is_set() and not last
                if validated or stop or (checkpoint_every and self.step % checkpoint_every == 0):
                    self.save(log.path.parent)
                if stop:
                    return False
        return True

    def _update(self, plan: BatchPlan, images: np.ndarray) -> dict[str, Any]:
        recipe, step = self.recipe, self.step
        x = to_unit(augment(images, plan, recipe.crop)).to(self.device)
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        side = recipe.crop >> (len(recipe.block_out_channels) - 1)
        noise = plan.noise((recipe.latent_channels, side, side), Stream.POSTERIOR)
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
            "lr": rate,
        }
        adversarial = self.discriminator is not None and step + 1 >= recipe.adversarial_start
        if adversarial:
            assert self.discriminator is not None
            fooled = -self.discriminator(y).mean()
            weight = adaptive_weight(reconstruction, fooled, self.model.decoder.conv_out.weight)
            loss = loss + recipe.adversarial_weight * weight * fooled
            line |= {"generator": fooled.item(), "adaptive_weight": weight.item()}
        if not math.isfinite(loss.item()):
            raise self._diverged("loss", loss.item())
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
            if not math.isfinite(line["discriminator"]):
                raise self._diverged("discriminator's loss", line["discriminator"])
        return line

    def _validate(self, validation: np.ndarray) -> dict[str, float]:
        """Validation loss, and the best weights kept where it is the lowest so far."""
        figures = self.evaluate(validation)
        if not math.isfinite(figures["val_loss"]):
            raise self._diverged("validation loss", figures["val_loss"])
        if not self.best or figures["val_loss"] < self.best["val_loss"]:
            self.best = {"step": self.step, **figures}
            state = self.model.state_dict()
            self.best_weights = {name: value.clone() for name, value in state.items()}
        return figures

    def _diverged(self, what: str, value: float) -> UserError:
        return UserError(
            f"step {self.step + 1}: the {what} is {value}; use a lower --learning-rate than "
            f"{self.recipe.learning_rate:g} and another --out"
        )

    def evaluate(self, images: np.ndarray) -> dict[str, float]:
        """val_loss = L1 + perceptual, of reconstructions from the posterior mean; val_psnr (dB).

        No KL and no adversarial term; complete images, no crops.
        """
        loss, squared = 0.0, 0.0
        with torch.no_grad():
            for start in range(0, len(images), _BATCH):
                x = to_unit(images[start : start + _BATCH]).to(self.device)
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
            for start in range(0, len(images), _BATCH):
                x = to_unit(images[start : start + _BATCH]).to(self.device)
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

    def save(self, run: Path) -> None:
        """Write a checkpoint; the one before is deleted."""
        tensors = {
            "model": self.model.state_dict(),
            "best": self.best_weights,
            "optimizer": _moments(self.optimizer, self.model),
        }
        if self.discriminator is not None:
            tensors["discriminator"] = self.discriminator.state_dict()
            tensors["critic"] = _moments(self.critic, self.discriminator)
        state = {"model": {"class": "AutoencoderKL"}, "best": self.best}
        checkpoint.save_checkpoint(run, self.step, tensors, state, keep=1)

    def resume(self, run: Path) -> bool:
        """Continue from the newest complete checkpoint, if there is one."""
        path = checkpoint.latest(run)
        if path is None:
            return False
        state = checkpoint.read_state(path)
        stems = {Path(name).stem for name in state["files"]}
        tensors = {stem: checkpoint.load_tensors(path, stem) for stem in stems}
        self.model.load_state_dict(tensors["model"])
        _restore(self.optimizer, self.model, tensors["optimizer"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(tensors["discriminator"])
            _restore(self.critic, self.discriminator, tensors["critic"])
        self.step, self.best, self.best_weights = state["step"], state["best"], tensors["best"]
        return True

    def load_best(self) -> None:
        """Put the weights with the lowest validation loss in place."""
        self.model.load_state_dict(self.best_weights)


def _moments(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    return checkpoint.optimizer_tensors(optimizer, dict(module.named_parameters()))


def _restore(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]
) -> None:
    checkpoint.restore_optimizer(tensors, optimizer, dict(module.named_parameters()))


def augment(images: np.ndarray, plan: BatchPlan, crop: int) -> np.ndarray:
    """Each slot's random crop, mirrored or not: uint8 N x H x W x C -> N x crop x crop x C."""
    out = np.empty((len(images), crop, crop, images.shape[3]), dtype=np.uint8)
    room = images.shape[1] - crop + 1
    corners = np.floor(plan.uniforms[:, :2] * room).astype(int)
    for row, (image, (top, left), flip) in enumerate(
        zip(images, corners, plan.flips, strict=True)
    ):
        part = image[top : top + crop, left : left + crop]
        out[row] = part[:, ::-1] if flip else part
    return out
