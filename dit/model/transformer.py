"""The Diffusion Transformer (DiT, Peebles & Xie, arXiv 2212.09748), written afresh.

Parameter names and numerics are those of the published model, so its checkpoints load strictly
and both agree to rounding; tests/golden holds the proof. `num_classes=0` is unconditional in
earnest: there is no label table, and forward(x, t) is the whole interface.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.errors import UserError

# name -> patch size, depth, hidden size, heads (paper's Tab. 1; 'mini' is for two CPU cores)
MODELS: dict[str, dict[str, int]] = {
    "DiT-XL/2": {"patch_size": 2, "depth": 28, "hidden_size": 1152, "num_heads": 16},
    "DiT-L/2": {"patch_size": 2, "depth": 24, "hidden_size": 1024, "num_heads": 16},
    "DiT-B/2": {"patch_size": 2, "depth": 12, "hidden_size": 768, "num_heads": 12},
    "DiT-S/2": {"patch_size": 2, "depth": 12, "hidden_size": 384, "num_heads": 6},
    "DiT-mini/2": {"patch_size": 2, "depth": 4, "hidden_size": 128, "num_heads": 4},
    "DiT-mini/4": {"patch_size": 4, "depth": 4, "hidden_size": 128, "num_heads": 4},
}


def sincos_2d(hidden_size: int, side: int) -> Tensor:
    """Fixed position embedding of a side x side grid, float32 [side**2, hidden_size].

    Rows run over the grid row by row. The first half of the channels encodes the column (w),
    the second the row (h); each half is [sin, cos] of position / 10000**(i / (hidden_size/4)).
    Raises ValueError when hidden_size is no multiple of 4.
    """
    if hidden_size % 4:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of 4")
    quarter = hidden_size // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64, device="cpu") / quarter)
    angles = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * omega
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, hidden_size / 2]
    columns = axis[None].expand(side, -1, -1)
    rows = axis[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(side * side, hidden_size).float()


def _in_weight_dtype(layer: nn.Sequential, value: Tensor) -> Tensor:
    """Run a small conditioning MLP outside autocast: adaLN's scale and gate stay exact."""
    linear = next(module for module in layer if isinstance(module, nn.Linear))
    with torch.autocast(value.device.type, enabled=False):
        return layer(value.to(linear.weight.dtype))


class PatchEmbed(nn.Module):
    """Image to tokens: [n, C, S, S] -> [n, (S/p)**2, hidden], row by row."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """Timestep [n] -> [n, hidden]: 256 sinusoids and a two-layer MLP.

    The frequencies are 10000**(-i / (128 - freq_shift)), i = 0..127: freq_shift 0 is the
    published DiT, 1 is the convention that diffusers has hard-wired.
    """

    frequencies = 128

    def __init__(self, hidden_size: int, freq_shift: int) -> None:
        super().__init__()
        self.freq_shift = freq_shift
        self.mlp = nn.Sequential(
            nn.Linear(2 * self.frequencies, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, t: Tensor) -> Tensor:
        steps = torch.arange(self.frequencies, dtype=torch.float32, device=t.device)
        omega = torch.exp(-math.log(10000.0) * steps / (self.frequencies - self.freq_shift))
        angles = t.float()[:, None] * omega
        return _in_weight_dtype(self.mlp, torch.cat([angles.cos(), angles.sin()], dim=1))


class LabelEmbedder(nn.Module):
    """Class id -> [n, hidden]; with dropout the table has one more row, the null class."""

    def __init__(self, num_classes: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class Attention(nn.Module):
    """Multi-head self-attention over [n, tokens, hidden]."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Token-wise feed-forward with tanh-approximated GELU."""

    def __init__(self, hidden_size: int, mlp_ratio: float) -> None:
        super().__init__()
        width = int(hidden_size * mlp_ratio)
        self.fc1 = nn.Linear(hidden_size, width)
        self.fc2 = nn.Linear(width, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    return normed * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """A DiT block with adaLN-zero conditioning (DiT paper, Fig. 3)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = Attention(hidden_size, num_heads)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        parts = _in_weight_dtype(self.adaLN_modulation, c).chunk(6, dim=1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate_attn[:, None] * self.attn(_modulate(x, shift_attn, scale_attn))
        return x + gate_mlp[:, None] * self.mlp(_modulate(x, shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Tokens -> p*p*channels values each."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = _in_weight_dtype(self.adaLN_modulation, c).chunk(2, dim=1)
        return self.linear(_modulate(x, shift, scale))


class DiT(nn.Module):
    """DiT over square latents.

    Args:
        input_size: side of the latent (32 for 256 px images and an f=8 VAE).
        patch_size: side of a patch, divides input_size.
        in_channels: latent channels.
        hidden_size, depth, num_heads, mlp_ratio: the transformer's shape.
        class_dropout_prob: chance in training that a label becomes the null class; 0 leaves
            the null row out of the table. Without meaning when num_classes is 0.
        num_classes: 0 is unconditional, without any label table.
        learn_sigma: the output has 2 * in_channels channels, eps and variance.
        freq_shift: 0 for published DiT frequencies, 1 for those of diffusers.

    `config` rebuilds it: DiT(**model.config). Set `gradient_checkpointing = True` to trade a
    second forward pass for activation memory; results do not change.
    """

    def __init__(
        self,
        input_size: int,
        patch_size: int,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 0,
        learn_sigma: bool = True,
        freq_shift: int = 0,
    ) -> None:
        super().__init__()
        if input_size % patch_size:
            raise ValueError(f"input_size {input_size} is no multiple of patch_size {patch_size}")
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size {hidden_size} is no multiple of num_heads {num_heads}")
        self.config: dict[str, Any] = {
            "input_size": input_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "class_dropout_prob": class_dropout_prob,
            "num_classes": num_classes,
            "learn_sigma": learn_sigma,
            "freq_shift": freq_shift,
        }
        self.input_size, self.patch_size = input_size, patch_size
        self.in_channels = in_channels
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.num_classes, self.class_dropout_prob = num_classes, class_dropout_prob
        self.gradient_checkpointing = False

        side = input_size // patch_size
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size, freq_shift)
        if num_classes:
            self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob)
        # A parameter, not a buffer: the published checkpoints and counts hold it.
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2, hidden_size), requires_grad=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, self.out_channels)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """The published initialisation; blocks start as the identity, the output as zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.pos_embed.copy_(sincos_2d(self.pos_embed.shape[2], self.input_size // self.patch_size))
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))  # as the linear map it is
        assert self.x_embedder.proj.bias is not None
        nn.init.zeros_(self.x_embedder.proj.bias)
        for module in self.t_embedder.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        if self.num_classes:
            nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if "adaLN_modulation" in name:
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.final_layer.linear.weight)

    @property
    def null_class(self) -> int:
        """Id of the null class. Raises ValueError for a model that has none."""
        if not self.num_classes or not self.class_dropout_prob:
            raise ValueError("this DiT was built without a null class (class dropout)")
        return self.num_classes

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor | None = None, drop: Tensor | None = None
    ) -> Tensor:
        """Predict noise, and the variance channels when learn_sigma.

        Args:
            x: [n, in_channels, input_size, input_size] noisy latents.
            t: [n] timesteps on the scale 0..999 (integers or floats).
            y: [n] class ids; may be left out when num_classes is 0 or 1.
            drop: [n] bool, labels to replace by the null class. Pass it for reproducible
                training; in train() mode without it the mask comes from torch's global RNG.
        Returns: [n, out_channels, input_size, input_size].
        """
        if x.shape[1:] != (self.x_embedder.proj.in_channels, self.input_size, self.input_size):
            raise ValueError(
                f"expected latents of {self.x_embedder.proj.in_channels} x {self.input_size} x "
                f"{self.input_size}, got {' x '.join(map(str, x.shape[1:]))}"
            )
        tokens = self.x_embedder(x) + self.pos_embed
        c = self.t_embedder(t)
        if self.num_classes:
            c = c + self._label(y, drop, x.shape[0], x.device)
        elif y is not None:
            raise ValueError("labels given to an unconditional DiT (num_classes=0)")
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, c, use_reentrant=False)
            else:
                tokens = block(tokens, c)
        return self._unpatchify(self.final_layer(tokens, c))

    def _label(
        self, y: Tensor | None, drop: Tensor | None, count: int, device: torch.device
    ) -> Tensor:
        if y is None:
            if self.num_classes > 1:
                raise ValueError(f"a DiT of {self.num_classes} classes needs labels (y)")
            y = torch.zeros(count, dtype=torch.int64, device=device)
        if drop is None and self.training and self.class_dropout_prob:
            drop = torch.rand(count, device=device) < self.class_dropout_prob
        if drop is not None:
            y = torch.where(drop, self.null_class, y)
        return self.y_embedder(y)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        p, side = self.patch_size, self.input_size // self.patch_size
        pixels = tokens.reshape(-1, side, side, p, p, self.out_channels)
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(
            -1, self.out_channels, self.input_size, self.input_size
        )


def build(name: str, input_size: int, in_channels: int, **options: Any) -> DiT:
    """A DiT by its name in MODELS; `options` go to DiT (num_classes, freq_shift, ...)."""
    if name not in MODELS:
        raise UserError(f"unknown model '{name}' (known: {', '.join(MODELS)})")
    return DiT(input_size=input_size, in_channels=in_channels, **{**MODELS[name], **options})
