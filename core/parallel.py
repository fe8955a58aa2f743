"""The same function over many tasks, in several processes, results in the tasks' order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from core.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def ordered_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    blas_threads: int | None = None,
) -> Iterator[Result]:
    """Yield function(task) for every task, in order.

    With one worker everything happens in this process. Otherwise `function` (importable by
    name), tasks and results travel between processes; a few tasks a worker are under way at a
    time, so `tasks` may be a long generator. An exception of `function` is raised here.
    `blas_threads` is the number of threads that matrix products take in each of the processes.

    Raises UserError when a worker process dies.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    # Spawned, not forked: a fork copies locks that other threads hold at that moment.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            # A process is started by a task that finds none idle.
            with _threads(blas_threads), _interrupts_held():
                pending.append(pool.submit(function, task))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process died, perhaps killed for want of memory; "
            "run the same command again to continue, with fewer --workers if it happens again"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Have processes that are started meanwhile load BLAS with so many threads."""
    names = () if count is None else ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits meanwhile, and never reaches processes started meanwhile: it is the parent's to
    answer, and one that has not begun yet could only print where it was."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
