"""Metrics as eval.evaluate, eval.loss and eval.track write them, of values that a test chooses."""

from __future__ import annotations

from typing import Any

JUDGE = {"name": "efficientnet-lite0", "digest": "57934424"}
INCEPTION = {"name": "inception", "weights": "inception-2015-12-05"}
CHECKPOINTS = (500, 1000, 1500, 2000)
HOLDOUTS = ("pool", "balanced", "informative")


def distance(
    value: float, name: str = "EfficientNetLite0", spread: float = 0.1, n: int = 200
) -> dict[str, Any]:
    """As eval.distances.measure gives it; `name` FID for Inception's, else that of the
    judge's space. Of few images the kernel distance leads."""
    fid = name == "FID"
    return {
        "name": name if fid else f"FD-{name}",
        "value": value,
        "interval_95": [value - spread, value + spread],
        "n_generated": n, "n_real": n, "dimension": 2048 if fid else 1280,
        "kernel_name": "KID" if fid else f"KD-{name}",
        "kernel_value": value / 1000,
        "kernel_interval_95": [(value - spread) / 1000, (value + spread) / 1000],
        "interval_over": "images",
        "lead": "kernel" if n < 5000 else "frechet",
        "metrics": {},
        "notes": [],
    }  # fmt: skip


def share(value: float, **more: Any) -> dict[str, Any]:
    """A value with its interval."""
    return {"value": value, "interval_95": [value - 0.02, value + 0.02], **more}


def generation_metrics(
    value: float, name: str = "EfficientNetLite0", after: float | None = None, n: int = 200,
    infrared: bool = False,
) -> dict[str, Any]:
    """A metrics file of eval.evaluate --generated; every distance is `value`, floors parts of it.

    `after`: that with both sides after the VAE; `infrared`: three times as far on NIR, R, G.
    """
    held: dict[str, Any] = {
        "distance": distance(value, name, n=n),
        "subset_floor": distance(value / 2, name, n=n),
        "vae_floor": distance(value / 4, name, n=n),
    }
    if after is not None:
        held["after_vae"] = {"distance": distance(after, name, 0.01, n)}
    classes = {"sea": {"recall": 0.9, "n": 15}, "port": {"recall": 0.1, "n": 15}}
    more = {}
    if infrared:
        more["infrared"] = {
            "holdouts": generation_metrics(3 * value, name, after, n)["holdouts"]
        }
    return {
        **more,
        "task": "generation",
        "extractor": INCEPTION if name == "FID" else JUDGE,
        "holdouts": {"pool": held, "balanced": {**held, "classes": classes}, "informative": held},
        "sampling": {"weights": "ema", "n": n, "sampler": "ddim", "steps": 25, "seed": 0,
                     "class_label": -1, "guidance": 1.0, "guided_channels": 0},
        "authenticity": {"pixels": {
            "n": n // 2, "n_generated": n, "nearer_to_training": share(0.5, real=0.48),
            "authentic": share(0.9, real=0.8),
        }},
    }  # fmt: skip


def pair_metrics(
    task: str, value: float, name: str = "EfficientNetLite0", rule: str = "last", n: int = 120
) -> dict[str, Any]:
    """A metrics file of eval.evaluate --pairs; the distance is `value`, LPIPS a hundredth."""
    lpips = "LPIPS-alex" if name == "FID" else f"PD-{name} (uncalibrated)"
    compared = {
        "distance": distance(value, name, n=n),
        "perceptual": {"name": lpips, "pairs": n, **share(value / 100)},
        "psnr": {"name": "PSNR (dB)", "pairs": n, **share(value)},
        "ssim": {"name": "SSIM", "pairs": n, **share(0.7)},
    }
    found = {"task": task, "extractor": INCEPTION if name == "FID" else JUDGE, **compared}
    if task == "sr":
        found["bicubic"] = {**compared, "psnr": {"name": "PSNR (dB)", "pairs": n, **share(20.0)}}
    else:
        found["adherence"] = {
            "miou": share(0.4, name="mIoU", images=n),
            "accuracy": share(0.6, name="accuracy", images=n),
            "real": {"miou": {"value": 0.7}, "accuracy": {"value": 0.8}},
            "shuffled": {"miou": {"value": 0.1}, "accuracy": {"value": 0.2}},
        }
    sampling = {"task": task, "split": "test" if task == "sr" else "val", "weights": "ema",
                "sampler": "ddim", "steps": 20, "crops": "grid", "limit": n, "seed": 0}  # fmt: skip
    return found | {"checkpoint_rule": rule, "sampling": {**sampling, "checkpoint_rule": rule}}


def reconstruction_metrics(value: float, name: str = "EfficientNetLite0") -> dict[str, Any]:
    """A record of eval.reconstruction; PSNR of band b is `value` + b."""
    one = {
        "quality": {
            "images": 200, "psnr": value, "psnr_mean": value,
            "psnr_band": [value + band for band in range(4)],
            "ssim_band": [0.8, 0.81, 0.82, 0.83], "l1_band": [0.01] * 4,
            "infrared": {
                "red_correlation": {"images": -0.25, "rebuilt": -0.2}, "ndvi_error": 0.0625,
                "ndvi_mean": {"images": 0.5, "rebuilt": 0.45},
                "ndvi_std": {"images": 0.3, "rebuilt": 0.28},
            },
        },
        "rgb": {"distance": distance(7.0, name)}, "infrared": {"distance": distance(9.0, name)},
    }  # fmt: skip
    return {"holdouts": dict.fromkeys(HOLDOUTS, one)}


def loss_metrics(value: float, n: int = 200) -> dict[str, Any]:
    """A metrics file of eval.loss."""
    sets = {
        kind: {"n": n, "loss": share(value * 1.1), "mse": share(value), "vb": share(value / 10),
               "bins": []}
        for kind in (*HOLDOUTS, "subset")
    }  # fmt: skip
    return {"task": "loss", "image_size": 64, "timesteps": {"bins": 10, "per_bin": 2}, "seed": 0,
            "ema": sets}  # fmt: skip


def track_lines(value: float, name: str = "EfficientNetLite0", n: int = 200) -> list[dict]:
    """Lines of eval.track: twice `value` at the first checkpoint, least at the last but one."""
    factors = (2.0, 1.4, 0.9, 1.0)
    lines = []
    for step, factor in zip(CHECKPOINTS, factors, strict=True):
        found = {held: distance(value * factor, name, n=n) for held in HOLDOUTS}
        loss = {held: {"loss": 0.1 * factor, "mse": 0.09 * factor, "vb": 0.01} for held in HOLDOUTS}
        lines.append({
            "step": step, "samples": 32 * step, "weights": "ema", "distance": found["pool"],
            "distances": found, "loss": loss,
            "sampling": {"weights": "ema", "n": n, "sampler": "ddim", "steps": 25, "seed": 0,
                         "class_label": -1, "guidance": 1.0, "guided_channels": 0},
            "extractor": INCEPTION if name == "FID" else JUDGE, "checkpoint": f"{step:064x}",
            "seconds": 9.5, "device": "cpu", "code": "test",
        })  # fmt: skip
    return lines
