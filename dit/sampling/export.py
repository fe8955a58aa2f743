"""Export a trained DiT as a diffusers folder that gives our outputs, not merely similar ones.

A plain conversion to diffusers' DiTTransformer2DModel loads without complaint and is wrong in
the time frequencies, the layer norms' epsilon and the label table's size. Here the second and
third are set in the config and the weights; the first is put right by the pipeline that is
saved along (dit/sampling/exported_pipeline.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiTTransformer2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from core.atomic import atomic_path, write_json, write_text
from core.errors import UserError
from core.stage import Result, Stage
from core.weights import write_plain
from dit.model.transformer import DiT, sincos_2d
from dit.sampling.config import ExportConfig
from dit.sampling.sample import check_vae
from dit.training.checkpoint import class_names
from dit.training.pretrained import load_dit
from dit.vae.autoencoder import VaeInfo, describe_vae, weights_file


def export(config: ExportConfig, stage: Stage) -> Result:
    """Write transformer, VAE, scheduler, pipeline and a README in diffusers' layout."""
    stage.open()
    info = describe_vae(config.vae)
    model, latent = load_dit(config.checkpoint, config.weights, config.num_heads)
    check_vae(model, latent, info, config.checkpoint, config.vae)
    to_diffusers(model).save_pretrained(config.out / "transformer")
    _save_vae(info, config.out / "vae")
    names = class_names(config.checkpoint)
    _save_pipeline(model, config.out, names)
    card = _card(model, info, stage.inputs["checkpoint"], config.weights, names)
    write_text(config.out / "README.md", card)
    outputs = [
        path.relative_to(config.out)
        for folder in (".", "transformer", "vae", "scheduler")
        for path in sorted((config.out / folder).iterdir())
        if path.is_file() and not path.name.startswith((".", "stage.", "manifest."))
    ]
    count = sum(parameter.numel() for parameter in model.parameters())
    line = f"DiT of {count:,} parameters, {config.weights} weights"
    return stage.finish({"model": model.config, "parameters": count}, outputs, line)


def to_diffusers(model: DiT) -> Any:
    """A diffusers DiTTransformer2DModel with `model`'s weights, in eval mode.

    Its outputs equal the model's to rounding once each block's
    `norm1.emb.time_proj.downscale_freq_shift` is model.config["freq_shift"], which
    from_pretrained always sets back to 1: load with the exported pipeline. An unconditional
    model gets a label table of zeros; class 0 is then the only label to give.

    Raises UserError for position embeddings other than the fixed ones, which diffusers
    computes anew.
    """
    config = model.config
    side = config["input_size"] // config["patch_size"]
    fixed = sincos_2d(config["hidden_size"], side)
    if not torch.allclose(model.pos_embed[0].cpu().float(), fixed, atol=1e-5):
        raise UserError("the position embeddings are not the fixed sine-cosine ones")
    if config["mlp_ratio"] != 4.0:
        raise UserError(f"mlp_ratio {config['mlp_ratio']}: diffusers' DiT has 4 built in")
    classes = max(config["num_classes"], 1)
    other: Any = DiTTransformer2DModel(
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["hidden_size"] // config["num_heads"],
        in_channels=config["in_channels"],
        out_channels=model.out_channels,
        num_layers=config["depth"],
        sample_size=config["input_size"],
        patch_size=config["patch_size"],
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,
    )
    for block in other.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = config["freq_shift"]
    other.load_state_dict(_renamed(model, classes), strict=True)
    return other.eval()


def _renamed(model: DiT, classes: int) -> dict[str, Any]:
    """Our state dict under diffusers' names."""
    ours = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    hidden = model.config["hidden_size"]
    table = ours.get("y_embedder.embedding_table.weight")
    if table is None:
        table = torch.zeros(1, hidden)
    if len(table) == classes:  # diffusers always has a row for the null class
        table = torch.cat([table, table[:1]])
    theirs = {
        "pos_embed.proj": "x_embedder.proj",
        "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }
    state: dict[str, torch.Tensor] = {}
    for i in range(model.config["depth"]):
        new, old = f"transformer_blocks.{i}", f"blocks.{i}"
        embedder = f"{new}.norm1.emb.timestep_embedder"
        theirs |= {
            f"{embedder}.linear_1": "t_embedder.mlp.0",  # diffusers has a copy in every block
            f"{embedder}.linear_2": "t_embedder.mlp.2",
            f"{new}.norm1.linear": f"{old}.adaLN_modulation.1",
            f"{new}.attn1.to_out.0": f"{old}.attn.proj",
            f"{new}.ff.net.0.proj": f"{old}.mlp.fc1",
            f"{new}.ff.net.2": f"{old}.mlp.fc2",
        }
        state[f"{new}.norm1.emb.class_embedder.embedding_table.weight"] = table
        for kind in ("weight", "bias"):
            parts = ours[f"{old}.attn.qkv.{kind}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                state[f"{new}.attn1.to_{name}.{kind}"] = part
    for new, old in theirs.items():
        for kind in ("weight", "bias"):
            state[f"{new}.{kind}"] = ours[f"{old}.{kind}"]
    return state


def _save_vae(info: VaeInfo, folder: Path) -> None:
    config = json.loads((info.folder / "config.json").read_text(encoding="utf-8"))
    # Written out, since a missing factor would leave the scale to diffusers' default.
    write_json(folder / "config.json", {**config, "scaling_factor": info.scale})
    source = weights_file(info.folder)
    with atomic_path(folder / source.name) as temporary:
        write_plain(source, temporary)


def _save_pipeline(model: DiT, out: Path, names: list[str]) -> None:
    scheduler: Any = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="epsilon",
        clip_sample=False,  # latents are not bounded by 1
    )
    scheduler.save_pretrained(out / "scheduler")
    write_json(
        out / "model_index.json",
        {
            "_class_name": ["pipeline", "ExportedDiTPipeline"],
            "_diffusers_version": diffusers.__version__,
            "transformer": ["diffusers", "DiTTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "freq_shift": model.config["freq_shift"],
            "num_classes": model.config["num_classes"],
            "id2label": dict(enumerate(names)),
        },
    )
    source = Path(__file__).with_name("exported_pipeline.py")
    write_text(out / "pipeline.py", source.read_text(encoding="utf-8"))


def _card(
    model: DiT, info: VaeInfo, checkpoint: str, weights: str, names: list[str]
) -> str:
    config = model.config
    classes = config["num_classes"]
    kind = f"{classes} classes" if classes > 1 else "unconditional"
    call, labels = "pipe(num_images=4)", ""
    if classes > 1:
        call = f"pipe(class_labels={names[:2] or [0, 1]})"
        labels = "\n`class_labels` takes indices, and names as text"
        labels += f": {', '.join(f'{i} = {n}' for i, n in enumerate(names))}.\n" if names else ".\n"
    pixels = config["input_size"] * info.factor
    return f"""---
library_name: diffusers
tags: [remote-sensing, diffusion, dit]
---
# DiT for remote-sensing images

{pixels} x {pixels} pixels, {kind}; depth {config["depth"]}, width {config["hidden_size"]},
patch {config["patch_size"]}, latents {config["in_channels"]} x {config["input_size"]} x \
{config["input_size"]} (VAE scale {info.scale}).
Exported from checkpoint `{checkpoint[:16]}` ({weights} weights).

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("THIS_FOLDER", trust_remote_code=True)
images = {call}.images                                  # DDPM, 250 steps, learned variance
images = {call[:-1]}, sampler="scheduler", steps=50).images   # DDIM
```
{labels}
`trust_remote_code` runs pipeline.py of this folder. Do not load it with DiTPipeline: that class
takes other time frequencies (its outputs are off by some percent), expects 1,000 classes, guides
by default and drops the learned variance.
"""
