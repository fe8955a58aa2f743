"""Weights by their plain names: without what wrapping a model in training adds to them.

torch.compile saves 'blocks.0.x' as '_orig_mod.blocks.0.x' (or 'blocks.0._orig_mod.x', where a part
was compiled), DistributedDataParallel as 'module.blocks.0.x', and the two together in either order.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from core.atomic import write_json
from core.errors import UserError

T = TypeVar("T")

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a name that a wrapper alone adds, wherever they stand; 'module' only at the front."""


def plain_name(name: str) -> str:
    """A tensor's name without wrappers."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        del parts[0]
    return ".".join(parts)


def plain_names(state: Mapping[str, T], where: str) -> dict[str, T]:
    """A state dict by plain names.

    Raises UserError where two tensors would have one name: weights saved with and without a
    wrapper, of which nothing says which ones are meant.
    """
    found: dict[str, T] = {}
    for name, value in state.items():
        if (plain := plain_name(name)) in found:
            raise UserError(
                f"{where}: holds '{plain}' twice, once as '{name}'; save one of the models alone"
            )
        found[plain] = value
    return found


@contextlib.contextmanager
def plain_folder(folder: Path, files: Sequence[Path]) -> Iterator[Path]:
    """A folder in a hub's format whose weights have plain names: the folder itself if they have.

    Args:
        folder: with a configuration and weights, .safetensors or .bin (weights only).
        files: those of the weights, in the folder.

    What cannot be read is left to whoever loads it.
    """
    try:
        wrapped = any(plain_name(name) != name for file in files for name in _names(file))
    except Exception:  # a damaged file is met with errors of every type
        wrapped = False
    if not wrapped:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for path in folder.iterdir():
            if path in files:
                write_plain(path, copy / path.name)
            elif path.name.endswith(".index.json"):
                index = json.loads(path.read_text(encoding="utf-8"))
                index["weight_map"] = plain_names(index.get("weight_map", {}), str(path))
                write_json(copy / path.name, index)
            elif path.is_file():
                (copy / path.name).symlink_to(path.resolve())
        yield copy


def write_plain(source: Path, target: Path) -> None:
    """Copy a file of weights by plain names; the very bytes where they have no others."""
    state = read_weights(source)
    plain = plain_names(state, str(source))
    if plain.keys() == state.keys():
        shutil.copyfile(source, target)
    elif source.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(plain, target, metadata={"format": "pt"})
    else:
        import torch

        torch.save(plain, target)


def read_weights(file: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file, or of a pickle of tensors alone, on the CPU."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)


def _names(file: Path) -> list[str]:
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            return list(opened.keys())
    return list(read_weights(file))
