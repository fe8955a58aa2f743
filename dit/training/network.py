"""The network as one process of a training holds it: precision, compilation, its part of weights.

`Network` keeps all weights on every process (DistributedDataParallel when there are several);
`Sharded` keeps a slice of every weight, of its gradient, of its average and of its moments
(FSDP2's fully_shard, block by block), for models whose 20 bytes a parameter do not fit one GPU.
Optimizer and average see plain tensors in both, and checkpoints hold complete tensors, so a run
may change from one to the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard


def prepare(model: nn.Module, accelerator: Accelerator, *, shard: bool, compiled: bool) -> Network:
    """Ready `model` for training on this process and move it to its device.

    Args:
        model: the same weights on every process; changed in place.
        shard: divide the weights among the processes, if there are several.
        compiled: compile the blocks, see `compile_blocks`.
    """
    if compiled:
        compile_blocks(model)
    if shard and accelerator.num_processes > 1:
        return Sharded(model, accelerator)
    return Network(model, accelerator)


def compile_blocks(model: nn.Module) -> None:
    """Compile each transformer block in place; a model without `blocks` as one.

    All blocks share one compiled program, so the first step waits for one block instead of for
    the whole depth, and what lies between blocks (embeddings, recomputation, the processes'
    communication) stays out of the compiler's reach.
    """
    for region in getattr(model, "blocks", [model]):
        region.compile(dynamic=False)


class Network:
    """All weights on every process.

    Attributes:
        model: the model with its own parameter names.
        parameters: this process's part of every trainable parameter, by name.
        shared_by_all: whether a forward pass needs all processes at once.
    """

    shared_by_all = False

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        self.model, self._accelerator = model, accelerator
        self._call = accelerator.prepare_model(model)  # autocast, device, DDP
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The forward pass in the run's precision; float32 out."""
        return self._call(*args, **kwargs)

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around one micro batch's forward and backward; gradients travel after the last only."""
        return contextlib.nullcontext() if last else self._accelerator.no_sync(self._call)

    def gradient_norm(self) -> Tensor:
        """After the last backward: L2 norm of the complete gradient, a scalar, on all the same."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """This process's part of the model's state_dict."""
        return self.model.state_dict()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take complete tensors for state(). Raises KeyError or RuntimeError if they don't fit."""
        self.model.load_state_dict(tensors)

    def complete(self, name: str, part: Tensor) -> Tensor:
        """The complete tensor of parameter `name`'s shape, from all processes' parts; all must
        call it together. A scalar or a buffer is complete as it is."""
        return part

    def part(self, name: str, complete: Tensor) -> Tensor:
        """This process's part of a tensor of parameter `name`'s shape; `complete`'s inverse."""
        return complete


class Sharded(Network):
    """A slice of every weight on each process, cut along the first dimension.

    The slices that FSDP2 keeps are wrapped once more as plain parameters over the same memory:
    the fused optimizer, its found_inf and the average then work as they do unsharded.
    """

    shared_by_all = True

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        self.model, self._accelerator = model, accelerator
        self._rank, self._processes = accelerator.process_index, accelerator.num_processes
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        self._mesh = init_device_mesh(accelerator.device.type, (self._processes,))
        # The root would keep its own weights after a forward pass, and a sampling in between
        # (forward without backward) would leave old ones behind.
        for unit in (*getattr(model, "blocks", []), model):
            fully_shard(unit, mesh=self._mesh, reshard_after_forward=True)
        self._pieces = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = {
            name: nn.Parameter(_local(p).detach()) for name, p in self._pieces.items()
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with self._accelerator.autocast():
            return self.model(*args, **kwargs).float()

    def accumulating(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return contextlib.nullcontext()

    def gradient_norm(self) -> Tensor:
        for name, parameter in self.parameters.items():
            gradient = self._pieces[name].grad
            parameter.grad = None if gradient is None else _local(gradient)
        parts = [p.grad for p in self.parameters.values() if p.grad is not None]
        square = torch.nn.utils.get_total_norm(parts).square()
        return self._accelerator.reduce(square, "sum").sqrt()

    def clear_gradients(self) -> None:
        for parameter in (*self.parameters.values(), *self._pieces.values()):
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        return {name: _local(value) for name, value in self.model.state_dict().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        mine = self.state()
        if strange := set(tensors) ^ set(mine):
            raise KeyError(f"tensors that do not match: {', '.join(sorted(strange))}")
        for name, value in mine.items():
            value.copy_(self.part(name, tensors[name]))

    def complete(self, name: str, part: Tensor) -> Tensor:
        if part.ndim == 0 or name not in self._shapes:  # buffers are not cut
            return part
        shape = self._shapes[name]
        stride = torch.empty(shape, device="meta").stride()
        pieces = DTensor.from_local(
            part, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )
        return pieces.full_tensor().cpu()  # off the GPU at once: one complete tensor at a time

    def part(self, name: str, complete: Tensor) -> Tensor:
        if complete.ndim == 0 or name not in self._shapes:
            return complete
        cut = complete.chunk(self._processes)
        return cut[self._rank] if self._rank < len(cut) else complete[:0]


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
