"""Checkpoints: a folder of safetensors files and a state.json that can vouch for them.

    RUN/checkpoints/step-0000400/
        model.safetensors      the weights
        ema.safetensors        their moving average, the same names
        optimizer.safetensors  AdamW's moments, '<moment>.<parameter>'
        state.json             step, model, latents, run, and each file's bytes and SHA-256

A checkpoint is written under a temporary name, flushed and renamed, so a folder named step-*
is complete unless the disk damaged it later; then `latest` warns and falls back to the one before.
Nothing in it depends on the number of processes or on the clock. Light to import, since commands
that find their work done ask for fingerprints only: torch is imported where tensors are.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from core.atomic import fsync_folder as fsync  # it opens files as well
from core.errors import UserError
from core.stage import digest_of, present_names, sha256_file

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")
FORMAT = 1  # version of state.json's own layout
_NAME = re.compile(r"step-(\d{7,})$")

Weights = Literal["ema", "raw"]
WEIGHTS_FILES = {"ema": "ema.safetensors", "raw": "model.safetensors"}


class Damaged(Exception):
    """A checkpoint that is not what its state.json says; the message names file and fault."""


def _build_dit(config: dict[str, Any]) -> nn.Module:
    from dit.model.transformer import DiT

    return DiT(**config)


# state["model"]["class"] -> builder from the rest of state["model"]. A room with a model class of
# its own adds it here when it is imported.
LOADERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {"DiT": _build_dit}


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest step first, complete or not."""
    try:
        found = [path for path in (run / "checkpoints").iterdir() if _NAME.match(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = _NAME.match(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint}: not named step-<number>")
    return int(match[1])


def folder_of(run: Path, step: int) -> Path:
    """Where the run's checkpoint of a step is, or would be."""
    return run / "checkpoints" / f"step-{step:07d}"


def save_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
    keep: int = 2,
    keep_every: int = 0,
    forever: Collection[int] = (),
) -> Path:
    """Write checkpoints/step-<step> atomically, then delete those no longer wanted.

    Args:
        run: the run folder. One process writes at a time (the stage's lock).
        step: steps finished.
        tensors: file stem -> name -> tensor; "model" and "ema" are what `load_model` reads.
        state: JSON-able; for `load_model` with "model": {"class": key of LOADERS, ...}, "latent".
        keep: this many newest stay.
        keep_every: those at multiples of it stay too; 0: none.
        forever: steps whose checkpoints stay too.

    Returns the checkpoint's folder. A folder of the same step is replaced.
    """
    from safetensors import SafetensorError

    root = run / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    clear(run)
    final = folder_of(run, step)
    temporary = root / f"{final.name}.tmp-{os.getpid()}"
    try:
        _write(temporary, step, tensors, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # half a checkpoint would keep the disk full
        older = [path.name for path in checkpoints(run)]
        raise UserError(
            f"{final}: cannot be written ({error}); what was there before is untouched "
            f"({', '.join(older) or 'no checkpoint yet'}). Make room, or fix the cause, and "
            "run the same command again"
        ) from None
    if final.exists():
        final.rename(root / f"{final.name}.old.tmp-{os.getpid()}")
    temporary.rename(final)
    fsync(root)
    # Later ones are damaged (else the run had continued from them): they must not count.
    kept = [path for path in checkpoints(run) if step_of(path) <= step]
    for old in kept[:-keep]:
        if step_of(old) not in forever and (not keep_every or step_of(old) % keep_every):
            old.rename(root / f"{old.name}.old.tmp-{os.getpid()}")  # never seen half deleted
    clear(run)
    return final


def _write(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    state: Mapping[str, Any],
) -> None:
    """A checkpoint's files, state.json last, flushed to disk."""
    from safetensors.torch import save_file

    folder.mkdir()
    files = {}
    for stem, named in tensors.items():
        path = folder / f"{stem}.safetensors"
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in named.items()},
            path,
            metadata={"format": "pt"},
        )
        fsync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    body = {"format": FORMAT, "step": step, **state, "files": files}
    body = json.loads(json.dumps(body))
    path = folder / "state.json"
    path.write_text(json.dumps({**body, "digest": digest_of(body)}, indent=2) + "\n")
    fsync(path)
    fsync(folder)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's state.json.

    Raises Damaged when it is missing or not as written, UserError when another version of this
    project wrote it in a format of its own.
    """
    path = checkpoint / "state.json"
    try:
        text = path.read_text(encoding="utf-8")
        state = json.loads(text)
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    except ValueError:
        raise Damaged(f"{path}: not valid JSON") from None
    if not isinstance(state, dict) or state.pop("digest", None) != digest_of(state):
        raise Damaged(f"{path}: not as it was written")
    if state["format"] != FORMAT:
        # Not damaged: passing it over would train anew what is there.
        raise UserError(
            f"{path}: checkpoint format {state['format']}, this version reads {FORMAT}; use the "
            "version that wrote it, or move the checkpoint away to go on from an older one"
        )
    state = json.loads(text, object_hook=present_names)
    del state["digest"]
    return state


def verify(checkpoint: Path, only: str | None = None) -> dict[str, Any]:
    """Check every file (or the one named) against state.json, and return the state.

    Raises Damaged. Reads the files: about a second for each gigabyte.
    """
    state = read_state(checkpoint)
    for name, entry in state["files"].items():
        path = checkpoint / name
        if only not in (None, name):
            continue
        try:
            size = path.stat().st_size
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror}") from None
        if size != entry["bytes"]:
            raise Damaged(f"{path}: {size:,} bytes, {entry['bytes']:,} were written")
        if sha256_file(path) != entry["sha256"]:
            raise Damaged(f"{path}: its SHA-256 is not the one written")
    return state


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None. Warns on stderr of damaged ones."""
    for checkpoint in reversed(checkpoints(run)):
        try:
            verify(checkpoint)
        except Damaged as error:
            print(f"WARNING: DAMAGED CHECKPOINT SKIPPED: {error}", file=sys.stderr, flush=True)
        else:
            return checkpoint
    return None


def resolve(path: Path | str) -> Path:
    """A checkpoint folder from itself or from its run folder (then the newest complete one).

    Raises UserError when there is none.
    """
    path = Path(path)
    if _NAME.match(path.name):
        if path.is_dir():
            return path
        raise UserError(f"{path}: no such checkpoint")
    found = latest(path)
    if found is None:
        raise UserError(f"{path}: no complete checkpoint in {path / 'checkpoints'}; train it first")
    return found


def pinned(config: T, name: str) -> T:
    """Settings whose field `name`, a run folder, is put to the run's newest complete checkpoint.

    So what is recorded and what is used are the same, though the run may be training. A file, a
    checkpoint and None stay. Raises UserError as `resolve` does.
    """
    path = getattr(config, name)
    if path is None or path.is_file():
        return config
    changed: Any = {name: resolve(path)}
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def fingerprint(path: Path | str) -> str:
    """What a checkpoint is, as an input of later stages: the same for a run and its newest one.

    Of a file in the published format it is the file's SHA-256.
    """
    if Path(path).is_file():
        return sha256_file(path)
    state = _state_of(path)
    return digest_of({"step": state["step"], "files": state["files"]})


def trained_on(path: Path) -> Callable[[Any], str]:
    """Of a recorded fingerprint that is not that of `path` (a run or a checkpoint): which other
    checkpoint of the run it is of, for a message; '' where it is of none that is there."""

    def explain(recorded: Any) -> str:
        run = path.parent.parent if _NAME.match(path.name) else path
        for other in checkpoints(run):
            try:
                same = fingerprint(other) == recorded
            except UserError:
                continue
            if same:
                return f"\n    the run has been trained on since: what is there is of {other}"
        return ""

    return explain


def class_names(path: Path | str) -> list[str]:
    """The classes that a model was trained with, by index; [] where none are recorded.

    None are in files in the published format, and in what is not class-conditional.
    """
    return [] if Path(path).is_file() else list(_state_of(path).get("classes", []))


def _state_of(path: Path | str) -> dict[str, Any]:
    """The state of a checkpoint, or of a run's newest. Raises UserError where there is none."""
    try:
        return read_state(resolve(path))
    except Damaged as error:
        raise UserError(f"damaged checkpoint: {error}") from None


def load_tensors(checkpoint: Path, stem: str) -> dict[str, torch.Tensor]:
    """One file's tensors, on the CPU."""
    from safetensors.torch import load_file

    return load_file(checkpoint / f"{stem}.safetensors")


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """An optimizer's state by '<moment>.<parameter>' (Adam: step, exp_avg, exp_avg_sq)."""
    return {
        f"{moment}.{name}": value
        for name, parameter in parameters.items()
        for moment, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    tensors: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    part: Callable[[str, torch.Tensor], torch.Tensor] = lambda _, complete: complete,
) -> None:
    """Take back what `optimizer_tensors` gave, each moment in its parameter's memory layout.

    `part` cuts what a process holds of a parameter's complete moment: (name, complete) -> part.
    """
    import torch

    for key, value in tensors.items():
        moment, _, name = key.partition(".")
        parameter, value = parameters[name], part(name, value)
        if value.ndim:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        elif optimizer.defaults["fused"]:  # others count their steps on the CPU
            value = value.to(parameter.device)
        optimizer.state[parameter][moment] = value.detach()


def load_model(path: Path | str, weights: Weights = "ema") -> tuple[nn.Module, dict[str, Any]]:
    """A trained model, on the CPU and in eval mode, and its checkpoint's state.

    Args:
        path: a run folder (its newest complete checkpoint) or a checkpoint folder.
        weights: "ema", the moving average, or "raw", the weights themselves.

    The state holds "step", "model" (class and arguments) and "latent" (shape, scale,
    vae_fingerprint, image_size). Raises UserError for a missing or damaged checkpoint.
    """
    checkpoint = resolve(path)
    if weights not in WEIGHTS_FILES:
        raise UserError(f"weights '{weights}': expected one of {', '.join(WEIGHTS_FILES)}")
    try:
        state = verify(checkpoint, only=WEIGHTS_FILES[weights])
    except Damaged as error:
        raise UserError(f"damaged checkpoint: {error}") from None
    config = dict(state["model"])
    kind = config.pop("class")
    if kind not in LOADERS:
        raise UserError(f"{checkpoint}: holds a {kind}, expected one of {', '.join(LOADERS)}")
    model = LOADERS[kind](config)
    stem = WEIGHTS_FILES[weights].removesuffix(".safetensors")
    model.load_state_dict(load_tensors(checkpoint, stem))
    return model.eval(), state


def clear(run: Path) -> None:
    """Remove what killed writers left and what was set aside to be deleted.

    For the process that has the run to itself (the stage's lock).
    """
    for path in (run / "checkpoints").glob("*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
