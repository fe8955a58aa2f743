"""Where the parts of a stage are made: in this process, by a group of processes, or on Ray.

A stage's output is a list of parts, each a function of the stage's settings and of its index. So
parts may be made anywhere, in any order, by anyone, and the files are the same:

- `process_group()`: processes that `accelerate launch` or `torchrun` started on one machine, one
  to a GPU. Each makes every size-th part; the first one opens the stage and ends it.
- `ray_parts()`: tasks on a Ray cluster. A task makes one part and returns it; this process writes
  it, so nothing but the corpus and the weights need be where the workers are, and what is written
  and how a stopped run continues does not depend on the engine.

Ray tasks rather than Ray Data: its datasets split and join blocks as they see fit, and its
writers name files by their own tasks, while here one part for each shard, with given bytes, is the
contract. A task that loses its worker or its node is tried again elsewhere: that costs its part
and nothing else.
"""

from __future__ import annotations

import datetime
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from core.errors import UserError
from core.stage import DoneElsewhere, Stage

Engine = Literal["local", "ray"]
Result = TypeVar("Result")

RETRIES = 10  # of a part whose worker was lost
PACKAGES = ("core", "data", "world", "prune", "dit", "downstream", "eval")
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a launch. Attributes: rank: this one, from 0; size: how many."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process opens the stage, prints, and writes the manifest."""
        return self.rank == 0

    def open(self, stage: Stage) -> None:
        """Have the main process open the stage; all continue from there together.

        Raises DoneElsewhere in all of them when another launch finished it meanwhile.
        """
        try:
            if self.main:
                stage.open()
        except DoneElsewhere:
            self.wait()  # the others wait there, and learn it from what lies on the disk
            raise
        self.wait()
        if not self.main:
            stage.join()

    def gather(self, stage: Stage | None = None) -> None:
        """Wait for all; then all but the main process, which ends the stage, leave."""
        if stage is not None and not self.main:
            stage.close()  # the main process sums what each has written of its costs
        self.wait()
        if not self.main:
            raise DoneElsewhere

    def mine(self, parts: list[int]) -> list[int]:
        """This process's parts, of those that all processes know in the same order."""
        return parts[self.rank :: self.size]

    def wait(self) -> None:
        """Until every process of the group has come here. (One that fails ends the launch.)"""
        if self.size == 1:
            return
        import torch.distributed as dist

        if not dist.is_initialized():
            # The work is not equally long: the first to finish may wait for hours.
            dist.init_process_group("gloo", timeout=datetime.timedelta(days=30))
        dist.barrier()


def process_group() -> ProcessGroup:
    """The processes that this one was launched with; itself alone when it was not."""
    return ProcessGroup(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def quiet_unless_main() -> None:
    """Silence the standard output of all processes of a group but the first, for good."""
    if not process_group().main:
        sys.stdout = open(os.devnull, "w")


def own_gpu() -> str:
    """'cuda', or in a group this process's own GPU: 'cuda:1' for the second on a machine."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"


def ray_parts(
    function: Callable[..., Result],
    tasks: Iterable[tuple[int, tuple[Any, ...]]],
    address: str | None,
    *,
    gpus: bool = False,
) -> Iterator[tuple[int, Result]]:
    """(index, function(*arguments)) of every (index, arguments), as they become ready.

    Args:
        function: importable by name; runs on the cluster's workers.
        tasks: may be a long generator: twice as many tasks as the cluster has processors are
            under way at a time.
        address: of the cluster's head ('auto', 'host:port', 'ray://...'); None starts Ray on
            this machine for the while.
        gpus: give every task a GPU of its own, where the cluster has any.

    Raises UserError when Ray is missing or cannot be reached, when the function does, and when a
    part has lost its worker RETRIES times.
    """
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        _start(ray, address)
    try:
        resources = ray.cluster_resources()
        gpu = 1 if gpus and resources.get("GPU", 0) else 0  # of each task
        remote = ray.remote(num_cpus=1, num_gpus=gpu, max_retries=RETRIES)(function)
        workers = resources.get("GPU" if gpu else "CPU", 1)
        pending: dict[Any, int] = {}
        queue = iter(tasks)
        while True:
            while len(pending) < 2 * max(1, int(workers)):
                task = next(queue, None)
                if task is None:
                    break
                pending[remote.remote(*task[1])] = task[0]
            if not pending:
                return
            ready, _ = ray.wait(list(pending), num_returns=1)
            index = pending.pop(ready[0])
            yield index, _get(ray, ready[0], index)
    finally:
        if started:
            ray.shutdown()


def _get(ray: Any, reference: Any, index: int) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    except ray.exceptions.RayError as error:  # a crash, a lost node, no memory: retried in vain
        why = str(error).strip().splitlines()[0]
        raise UserError(
            f"part {index} could not be made on the Ray cluster: {why}\n"
            "run the same command again to continue with what is left"
        ) from None


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError(
            "--engine ray: Ray is not installed (pip install 'ray[data]'); --engine local works "
            "without it"
        ) from None


def _start(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    variables = {
        # Ray would give each task one thread, and other threads round differently.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1)),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    # The code travels with the job; the workers' machines need the libraries only.
    modules = [str(_ROOT / name) for name in PACKAGES]
    environment = {"py_modules": modules, "env_vars": variables}
    try:
        ray.init(
            address=address,
            runtime_env=environment,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address is None else None,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        why = str(error).strip().splitlines()[0]
        where = "on this machine" if address is None else f"at {address}"
        raise UserError(f"--engine ray: no Ray cluster {where} ({why})") from None
    print(f"[ray] {int(ray.cluster_resources().get('CPU', 0))} processors", file=sys.stderr)
