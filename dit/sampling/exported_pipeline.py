"""The pipeline that travels with an exported model; it needs torch and diffusers alone.

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    images = pipe(num_images=4).images

diffusers' DiT has the sinusoidal time frequencies of another convention built in, without a
setting for it: outputs are off by some percent. This pipeline sets them right when it loads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

_CODE = Path(__file__).read_text(encoding="utf-8")  # now: a later load may replace the file


class ExportedDiTPipeline(DiffusionPipeline):
    """Unconditional or class-conditional DiT.

    Args:
        transformer, vae, scheduler: the parts, as from_pretrained loads them.
        freq_shift: the time frequencies are 10000**(-i / (128 - freq_shift)).
        num_classes: 0 is unconditional.
        id2label: index -> name of each class, where they have names.
    """

    config: Any
    transformer: Any
    vae: Any
    scheduler: Any

    def __init__(
        self,
        transformer: DiTTransformer2DModel,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        freq_shift: int = 0,
        num_classes: int = 0,
        id2label: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        names = {str(index): name for index, name in (id2label or {}).items()}  # as JSON has it
        self.register_to_config(freq_shift=freq_shift, num_classes=num_classes, id2label=names)
        blocks: Any = transformer.transformer_blocks
        for block in blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = freq_shift

    def save_config(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """What save_pretrained ends with: the index, and this file, without which it is no use."""
        super().save_config(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        index = folder / "model_index.json"
        content = json.loads(index.read_text(encoding="utf-8"))
        content["_class_name"] = ["pipeline", ExportedDiTPipeline.__name__]
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "pipeline.py").write_text(_CODE, encoding="utf-8")

    def label_ids(self, labels: Sequence[int | str]) -> list[int]:
        """Indices of classes given by index (a number) or by name (text). ValueError for others."""
        names, count = self.config.id2label, max(self.config.num_classes, 1)
        ids = {name: int(index) for index, name in names.items()}
        for label in labels:
            if label not in ids if isinstance(label, str) else not 0 <= label < count:
                known = ", ".join(f"{i} = {name}" for i, name in names.items()) or "no names"
                raise ValueError(f"class {label!r}: expected 0 to {count - 1}, or a name ({known})")
        return [ids[label] if isinstance(label, str) else int(label) for label in labels]

    @torch.no_grad()
    def __call__(
        self,
        num_images: int = 1,
        steps: int = 250,
        sampler: str = "ddpm",
        class_labels: Sequence[int | str] | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw images.

        Args:
            num_images: how many; the length of class_labels or latents if those are given.
            steps: model evaluations.
            sampler: 'ddpm' is DiT's own, with the learned variance; 'scheduler' uses
                self.scheduler (DDIM as exported; any other diffusers scheduler can be put
                there), without the learned variance.
            class_labels: class of each image, for a class-conditional model: its index, or its
                name as text ("3" is the class of that name, 3 the fourth).
            generator: source of noise, on the CPU.
            latents: starting noise [n, C, h, w].
            output_type: 'pil', 'np' (uint8 n x H x W x C) or 'latent' (scaled tensor).
        """
        config, device = self.transformer.config, self._execution_device
        given = latents if latents is not None else class_labels
        count = num_images if given is None else len(given)
        if self.config.num_classes > 1 and class_labels is None:
            raise ValueError(f"class_labels needed: 0 to {self.config.num_classes - 1}")
        labels = torch.tensor(self.label_ids(class_labels or [0] * count), device=device)
        if latents is None:
            shape = (count, config.in_channels, config.sample_size, config.sample_size)
            latents = torch.randn(shape, generator=generator)
        x = latents.to(device, torch.float32)
        if sampler == "ddpm":
            x = self._ddpm(x, labels, steps, generator)
        elif sampler == "scheduler":
            self.scheduler.set_timesteps(steps, device=device)
            for t in self.progress_bar(self.scheduler.timesteps):
                eps = self._predict(self.scheduler.scale_model_input(x, t), t, labels)
                x = self.scheduler.step(eps[:, : x.shape[1]], t, x).prev_sample
        else:
            raise ValueError(f"sampler '{sampler}': expected 'ddpm' or 'scheduler'")
        images: Any = x
        if output_type == "latent":
            return ImagePipelineOutput(images=images)
        decoded = self.vae.decode((x / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        pixels = (127.5 * decoded.float() + 128.0).clamp(0, 255).to(torch.uint8)
        images = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return ImagePipelineOutput(
            images=self.numpy_to_pil(images) if output_type == "pil" else images
        )

    def _predict(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        timestep = t.reshape(1).expand(len(x)).to(x.device)
        inputs = x.to(self.transformer.dtype)
        return self.transformer(inputs, timestep=timestep, class_labels=labels).sample.float()

    def _ddpm(
        self, x: torch.Tensor, labels: torch.Tensor, steps: int, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Ancestral sampling over evenly spread timesteps with the learned variance."""
        config = self.scheduler.config
        betas = np.linspace(config.beta_start, config.beta_end, config.num_train_timesteps)
        if not 1 <= steps <= len(betas):
            raise ValueError(f"steps {steps}: expected 1 to {len(betas)}")
        # A running sum, as published: i * stride rounds otherwise at .5.
        stride = (len(betas) - 1) / max(1, steps - 1)
        sums = np.cumsum([0.0] + [stride] * (steps - 1))
        visited = sums.round().astype(int)
        bars = np.cumprod(1.0 - betas)[visited]
        previous = np.append(1.0, bars[:-1])
        beta = 1.0 - bars / previous
        tilde = beta * (1.0 - previous) / (1.0 - bars)
        tilde[0] = tilde[min(1, steps - 1)] or beta[0]
        for i in self.progress_bar(range(steps - 1, -1, -1)):
            output = self._predict(x, torch.tensor(int(visited[i])), labels)
            eps, v = output.chunk(2, dim=1)
            bar, before = float(bars[i]), float(previous[i])
            x0 = (x - math.sqrt(1.0 - bar) * eps) / math.sqrt(bar)
            weight = float(beta[i]) * math.sqrt(before) / (1.0 - bar)
            x = weight * x0 + (1.0 - before) * math.sqrt(1.0 - float(beta[i])) / (1.0 - bar) * x
            if i > 0:
                fraction = (v + 1.0) / 2.0
                log_variance = fraction * math.log(beta[i]) + (1.0 - fraction) * math.log(tilde[i])
                noise = torch.randn(x.shape, generator=generator).to(x.device)
                x = x + torch.exp(0.5 * log_variance) * noise
        return x

    @staticmethod
    def numpy_to_pil(images: np.ndarray) -> list:
        """uint8 n x H x W x C to images; of more than three bands the first three."""
        from PIL import Image

        return [Image.fromarray(np.ascontiguousarray(image[:, :, :3])) for image in images]
