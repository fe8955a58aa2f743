"""The autoencoder's training loop: step, validate, keep the best, continue after a kill.

As the DiT's (dit.training.loop): order, crops, flips and noise are functions of (seed, step, slot),
each process takes equally many slots, in micro batches that are accumulated, so that the mean loss
and gradient are the same on any number of processes; sums stay on the device until a line is due;
a step that is not finite is left out on all processes alike; a killed run repeats the steps since
its last checkpoint and ends with the same bytes (on a CPU; GPU kernels may differ in the last bit).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from core.errors import UserError
from core.progress import progress
from dit.model.ema import Ema
from dit.training import checkpoint
from dit.training.meter import Meter, Speed, log_line
from dit.training.order import BatchPlan, Stream
from dit.training.processes import stop_signals
from dit.training.runlog import RunLog
from dit.vae.autoencoder import Vae, to_unit
from dit.vae.images import augment, in_background
from dit.vae.losses import PatchDiscriminator, adaptive_weight, hinge_loss, make_perceptual
from dit.vae.machine import Machine, micro_batch
from dit.vae.network import BLOCK, Pass, build, compile_regions, divergence
from dit.vae.recipes import Recipe

Batches = Iterator[tuple[BatchPlan, np.ndarray]]
Micro = tuple[Tensor, Tensor]
"""Crops uint8 [m, C, S, S] and posterior noise [m, c, s, s], on the host."""
PATIENCE = 10  # non-finite steps in a row that end a run
_LOOK_EVERY = 10  # steps between looks at a GPU's counters: a look makes the host wait
_TERMS = ("loss", "l1", "perceptual", "kl")
_ADVERSARIAL = ("generator", "discriminator", "adaptive_weight")


class VaeTrainer:
    """Everything a run carries from step to step.

    Args:
        recipe: the settings (see dit.vae.recipes.Recipe).
        channels: image bands.
        seed: of the initial weights.
        machine: where it runs.

    Raises UserError where the batch does not divide, and as make_perceptual does.
    """

    def __init__(
        self, recipe: Recipe, channels: int, seed: int, machine: Machine | None = None
    ) -> None:
        self.recipe, self.machine = recipe, machine or Machine()
        self.device, self.group = torch.device(self.machine.device), self.machine.group
        self.micro = micro_batch(recipe, self.machine)
        # Channels last: faster convolutions on CPUs, and what tensor cores take.
        self.model = build(recipe, channels, seed).to(
            device=self.device, memory_format=torch.channels_last
        )
        if self.machine.recompute:
            self.model.enable_gradient_checkpointing()
        self.network = Pass(self.model)
        self.optimizer = self._adam(self.model)
        self.ema = Ema(dict(self.model.named_parameters()), recipe.ema_decay, warmup=True)
        self.perceptual = make_perceptual(
            recipe.perceptual, self.device, channels, self.machine.perceptual_weights
        )
        self.discriminator: PatchDiscriminator | None = None
        if recipe.adversarial_start:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)
                self.discriminator = PatchDiscriminator(channels, group=recipe.normalised_together)
            self.discriminator.to(self.device).to(memory_format=torch.channels_last)
            self.critic = self._adam(self.discriminator)
        if self.machine.compiled:
            compile_regions(self.model, self.discriminator)
        terms = _TERMS + (_ADVERSARIAL if recipe.adversarial_start else ())
        self.meter = Meter(self.device, terms)
        self._adaptive = torch.zeros(2, device=self.device)  # sum and number since a validation
        self.step = 0
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] = {}

    def _adam(self, module: nn.Module) -> torch.optim.Adam:
        betas = (self.recipe.beta1, self.recipe.beta2)
        rate = self.recipe.learning_rate
        return torch.optim.Adam(module.parameters(), lr=rate, betas=betas, fused=True)

    def start_from(self, vae: Vae) -> None:
        """Take the weights of another VAE. Raises UserError when it is of another shape."""
        state, own = vae.model.state_dict(), self.model.state_dict()
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != {name: value.shape for name, value in own.items()}:
            raise UserError(
                f"--init {vae.folder}: another network ({vae.in_channels} bands, channels "
                f"{', '.join(map(str, vae.model.config.block_out_channels))}; here "
                f"{self.model.config.in_channels} bands, "
                f"{', '.join(map(str, self.recipe.block_out_channels))}); see --preset"
            )
        self.model.load_state_dict(state)
        self.ema.load(state)

    def train(
        self,
        batches: Batches,
        validation: np.ndarray,
        log: RunLog | None,
        run: Path,
        checkpoint_every: int = 0,
        samples: int = 1,
        count: Callable[[int], object] = lambda images: None,
    ) -> bool:
        """Run to recipe.steps. Returns False when SIGTERM or SIGUSR1 stopped it before.

        Args:
            batches: (plan, uint8 N x H x W x C) of this process's slots, from self.step on.
            validation: uint8 N x H x W x C, the same on every process.
            log: the main process's record.
            run: the run folder, for the checkpoints.
            checkpoint_every: steps; besides, every validation is a checkpoint.
            samples: training images, for the record's epochs.
            count: told how many images this process has taken.
        """
        recipe, processes = self.recipe, self.group.size
        before = log.last.get("timing", {}).get("seconds", 0.0) if log else 0.0
        precision = "bf16" if self.machine.half else "fp32"
        speed = Speed(recipe, {}, self.device, precision, processes, before, self.step)
        bar = progress(total=recipe.steps, initial=self.step, name="VAE", unit="step")
        first = self.step
        coming = in_background(map(self._ready, batches), ahead=2)
        with bar, stop_signals() as asked, contextlib.closing(coming):
            while self.step < recipe.steps:
                with speed.waiting():
                    micros = next(coming, None)
                if micros is None:
                    break
                self._update(micros, asked.is_set())
                self.step += 1
                bar.update()
                count(recipe.batch // processes)
                if self.step - 1 == first and self.group.main:
                    tqdm.write(f"VAE: {speed.first_step(self.machine.compiled)}")
                last = self.step == recipe.steps
                stop = asked.is_set() and processes == 1 and not last
                if self.device.type == "cpu" or self.step % _LOOK_EVERY == 0:
                    bad, elsewhere = self.meter.look()
                    stop = (stop or elsewhere) and not last
                    if bad >= PATIENCE:
                        raise self._diverged(f"loss or gradient, {bad} steps in a row,")
                validated = last or self.step % recipe.validate_every == 0
                begins = self.step + 1 == recipe.adversarial_start  # then lines have other terms
                if validated or begins or self.step % recipe.log_every == 0:
                    self._log(log, speed, samples, self._validate(validation) if validated else {})
                due = validated or (checkpoint_every and self.step % checkpoint_every == 0)
                if (due or stop) and self.group.main:
                    self.save(run)
                if stop:
                    return False
        return True

    def _log(
        self, log: RunLog | None, speed: Speed, samples: int, figures: dict[str, float]
    ) -> None:
        decay = self.ema.decay_at(self.step)
        line = self.meter.line(self.step, self.recipe, samples, decay)
        if not self.recipe.adversarial(self.step):
            line = {name: value for name, value in line.items() if name not in _ADVERSARIAL}
        timing = speed.interval(self.step)
        if log is not None:
            log.write({**line, **figures, "timing": timing})
            found = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
            tqdm.write(f"{log_line(line, timing, self.recipe.steps)}{found}")

    def _ready(self, batch: tuple[BatchPlan, np.ndarray]) -> list[Micro]:
        """A step's micro batches. Runs in a thread, ahead of use."""
        plan, images = batch
        recipe, made = self.recipe, []
        side = recipe.crop >> (len(recipe.block_out_channels) - 1)
        crops = augment(images, plan, recipe.crop).transpose(0, 3, 1, 2)
        starts = range(0, len(plan), self.micro)
        for start, part in zip(starts, plan.split(self.micro), strict=True):
            pixels = torch.from_numpy(np.ascontiguousarray(crops[start : start + self.micro]))
            noise = part.noise((recipe.latent_channels, side, side), Stream.POSTERIOR)
            pair = (pixels, noise)
            pinned = self.device.type == "cuda"
            made.append((pixels.pin_memory(), noise.pin_memory()) if pinned else pair)
        return made

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.machine.half)

    def _forward(self, micro: Micro, adversarial: bool) -> dict[str, Tensor]:
        """A micro batch's images x, reconstructions y and loss terms (means over its images)."""
        pixels, noise = (value.to(self.device, non_blocking=True) for value in micro)
        x = pixels.float().div_(127.5).sub_(1.0).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            y, mean, std, logvar = self.network(x, noise)
            perceptual = self.perceptual(x, y).float().mean()
        l1 = (y - x).abs().mean()
        found = {"x": x, "y": y, "l1": l1, "perceptual": perceptual}
        found["kl"] = divergence(mean, std, logvar).mean()
        # A sum over pixels and channels is x[0].numel() times a mean.
        found["reconstruction"] = x[0].numel() * (l1 + self.recipe.perceptual_weight * perceptual)
        if adversarial:
            found["generator"] = -self._scores(y).mean()
        return found

    def _scores(self, images: Tensor) -> Tensor:
        assert self.discriminator is not None
        with self._autocast():
            return self.discriminator(images).float()

    def _weigh(self, found: dict[str, Tensor]) -> Tensor:
        """Of a micro batch, both gradients at the decoder's last layer, which it is weighed by."""
        last = self.model.decoder.conv_out.weight
        return torch.stack(
            [
                torch.autograd.grad(found[name], last, retain_graph=True)[0]
                for name in ("reconstruction", "generator")
            ]
        )

    def _update(self, micros: list[Micro], asked: bool = False) -> None:
        """One step of the autoencoder and, once it takes part, of the discriminator."""
        recipe, parts = self.recipe, len(micros)
        done = self.step + 1
        adversarial = recipe.adversarial(done)
        pixels = micros[0][0][0].numel()
        totals = torch.zeros(len(self.meter.terms) + 1, device=self.device)
        kept: dict[str, Tensor] | None = None
        weight = torch.zeros((), device=self.device)
        if adversarial:
            assert self.discriminator is not None
            self.discriminator.requires_grad_(False)  # it learns from its own loss alone
            pulls: Any = 0.0
            for micro in micros:  # the weight is that of the whole batch, so it comes first
                kept = None  # one graph at a time is held
                kept = self._forward(micro, adversarial)
                pulls = pulls + self._weigh(kept) / parts
            kept = kept if parts == 1 else None
            weight = adaptive_weight(*self._mean([pulls])[0])

        seen = []
        for micro in micros:
            # Of one micro batch the pass above still has its graph.
            found = self._forward(micro, adversarial) if kept is None else kept
            loss = found["reconstruction"] + recipe.kl_weight * found["kl"]
            if adversarial:
                loss = loss + recipe.adversarial_weight * weight * found["generator"]
            (loss / parts).backward()
            terms = [loss / pixels, *(found[name] for name in _TERMS[1:])]
            totals[: len(terms)] += torch.stack([term.detach() for term in terms]) / parts
            if adversarial:
                totals[len(_TERMS)] += found["generator"].detach() / parts
                seen.append((found["x"], found["y"].detach()))
        modules: list[tuple[nn.Module, torch.optim.Optimizer]] = [(self.model, self.optimizer)]
        if adversarial:
            assert self.discriminator is not None
            self.discriminator.requires_grad_(True)
            modules.append((self.discriminator, self.critic))
            for x, y in seen:
                critic = hinge_loss(self._scores(x), self._scores(y)) / parts
                critic.backward()
                totals[len(_TERMS) + 1] += critic.detach()
            totals[len(_TERMS) + 2] = weight
        if asked:
            totals[-1] = 1.0  # travels with the losses, so that all processes stop at once
        (totals,) = self._mean([totals])

        norms = []
        for module, _ in modules:
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            if self.group.size > 1:
                # Copied: the fused optimizer wants a gradient in its parameter's memory layout.
                torch._foreach_copy_(gradients, self._mean(gradients))
            norms.append(torch.nn.utils.get_total_norm(gradients))
        # Not finite: left out on all processes alike; the fused optimizer changes nothing where
        # found_inf is 1, and the host need not know.
        bad = ~torch.stack([*totals[:-1], *norms]).isfinite().all()
        if adversarial:
            pair = torch.stack([weight, torch.ones_like(weight)])
            self._adaptive += torch.where(bad, 0.0, pair)
        for module, optimizer in modules:
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            optimizer.param_groups[0]["lr"] = recipe.rate(done)
            optimizer.step()
            for parameter in module.parameters():
                parameter.grad = None
        self.ema.update(done)
        self.meter.add(totals, norms[0], bad)

    def _mean(self, tensors: list[Tensor]) -> list[Tensor]:
        """The processes' mean of each tensor, as one message."""
        if self.group.size == 1:
            return tensors
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) / self.group.size
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def _validate(self, validation: np.ndarray) -> dict[str, float]:
        """Validation figures, and the best weights kept where the loss is the lowest so far.

        Losses with and without the adversarial term do not compare: the first validation with it
        begins anew.
        """
        figures = self.evaluate(validation)
        self._adaptive.zero_()
        if not math.isfinite(figures["val_loss"]):
            raise self._diverged("validation loss")
        start = self.recipe.adversarial_start
        outdated = self.recipe.adversarial(self.step) and self.best.get("step", start) < start
        if not self.best or outdated or figures["val_loss"] < self.best["val_loss"]:
            self.best = {"step": self.step, **figures}
            state = self.model.state_dict()
            self.best_weights = {name: value.clone() for name, value in state.items()}
        return figures

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"step {self.step}: the {what} is not finite; use a lower --learning-rate than "
            f"{self.recipe.learning_rate:g} and another --out"
        )

    def evaluate(self, images: np.ndarray) -> dict[str, float]:
        """What is optimised, of complete images and from the posterior mean, a pixel and band.

        val_loss = L1 + w_p perceptual + (w_kl KL + w_g a L_G) / pixels, the last term once the
        discriminator takes part, with the mean adaptive weight a since the last validation;
        val_l1, and val_psnr (dB). The processes share the images.
        """
        starts = list(range(0, len(images), BLOCK))
        own = {start: self._evaluated(images[start : start + BLOCK]) for start in
               self.group.mine(starts)}  # fmt: skip
        found = {start: sums for each in self.group.exchange(own) for start, sums in each.items()}
        loss, l1, squared = np.sum([found[start] for start in starts], axis=0) / len(images)
        psnr = -10 * math.log10(max(squared, 1e-10))
        return {"val_loss": float(loss), "val_l1": float(l1), "val_psnr": psnr}

    @torch.no_grad()
    def _evaluated(self, images: np.ndarray) -> list[float]:
        """Sums over some images: loss, L1, and squared error on [0, 1]."""
        recipe, x = self.recipe, to_unit(images).to(self.device)
        with self._autocast():
            posterior = self.model.encode(x).latent_dist
            y = self.model.decode(posterior.mode()).sample.float()
            perceptual = self.perceptual(x, y).float()
        kl = divergence(*(v.float() for v in (posterior.mean, posterior.std, posterior.logvar)))
        l1 = (y - x).abs().mean(dim=(1, 2, 3))
        each = l1 + recipe.perceptual_weight * perceptual + recipe.kl_weight * kl / x[0].numel()
        if recipe.adversarial(self.step):
            weight = self._adaptive[0] / self._adaptive[1].clamp(min=1.0)
            fooled = -self._scores(y).mean(dim=(1, 2, 3))
            area = x.shape[1] * recipe.crop**2  # the weight was found on crops
            each = each + recipe.adversarial_weight * weight * fooled / area
        squared = ((y.clamp(-1, 1) - x) / 2).square().mean(dim=(1, 2, 3))
        return [values.double().sum().item() for values in (each, l1, squared)]

    def save(self, run: Path) -> None:
        """Write a checkpoint; the one before is deleted."""
        tensors = {
            "model": self.model.state_dict(),
            "best": self.best_weights,
            "ema": self.ema.average,
            "optimizer": _moments(self.optimizer, self.model),
        }
        if self.discriminator is not None:
            tensors["discriminator"] = self.discriminator.state_dict()
            tensors["critic"] = _moments(self.critic, self.discriminator)
        state = {
            "model": {"class": "AutoencoderKL"},
            "best": self.best,
            "meter": self.meter.state(),
            "adaptive": self._adaptive.tolist(),
        }
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
        self.ema.load(tensors["ema"])
        _restore(self.optimizer, self.model, tensors["optimizer"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(tensors["discriminator"])
            _restore(self.critic, self.discriminator, tensors["critic"])
        self.meter.load(state["meter"])
        self._adaptive.copy_(torch.tensor(state["adaptive"]))
        self.step, self.best, self.best_weights = state["step"], state["best"], tensors["best"]
        return True

    def weights(self, which: str) -> dict[str, Tensor]:
        """The weights to export: 'best' (of the lowest validation loss), 'last' or 'ema'."""
        if which == "best":
            return self.best_weights
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        return state if which == "last" else {**state, **self.ema.average}


def _moments(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    return checkpoint.optimizer_tensors(optimizer, dict(module.named_parameters()))


def _restore(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]
) -> None:
    checkpoint.restore_optimizer(tensors, optimizer, dict(module.named_parameters()))
