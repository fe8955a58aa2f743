"""A training among processes: one of them prints, and all stop when one is asked to."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
from collections.abc import Iterator

from core.engines import process_group
from core.errors import UserError

FINISHED, REFUSED, WORK_LEFT, RUN_AGAIN = 0, 2, 3, 75
"""Exit codes: of --is-done the first three; the last (EX_TEMPFAIL) of a run that was asked to
stop and saved itself."""


@contextlib.contextmanager
def first_process_prints() -> Iterator[None]:
    """Silence the other processes of a launch: they come to the same conclusions and errors."""
    if process_group().main:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            yield
        except UserError:
            raise SystemExit(REFUSED) from None


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGUSR1, which batch systems send before they kill, set."""
    asked = threading.Event()
    signals = (signal.SIGTERM, signal.SIGUSR1)
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return
    before = [signal.signal(number, lambda *_: asked.set()) for number in signals]
    try:
        yield asked
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
