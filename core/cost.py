"""What a stage costs: time, processors, GPUs, images, memory, energy, over all its sessions.

    {"seconds", "cpu_seconds", "gpus", "gpu_hours", "images", "images_per_s", "peak_memory_gb",
     "peak_gpu_memory_gb", "energy_kwh", "sessions"}; GB are 1e9 bytes, null is unknown

seconds       wall time from opening the stage to its end
cpu_seconds   of this process and all below it, user and system
gpus          CUDA devices on which PyTorch holds memory, in all processes of a launch
gpu_hours     seconds / 3600 x gpus
images        as far as the stage counts any (`Stage.count`); an image seen twice counts twice
peak_memory   resident, of the process since it began, and of all processes together now and then;
              of a launch the sum over its processes. Pages that two of them share count twice
peak_gpu      what PyTorch reserved on the fullest device
energy_kwh    of those GPUs by the driver's counter (NVML), of whole cards: whoever else computes on
              one is in it. The processors' is not known

A stage's sessions are summed: each continues the sums of a small file beside stage.json, written
every 20 s and where a session ends early, which the manifest takes over (made.cost). Each process
of a launch writes its own. Nothing is imported and no device begun to measure: what the stage
itself uses is looked at. Light to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.atomic import write_json

Cost = dict[str, Any]

SAVE_EVERY = 20.0  # seconds; a kill loses so much, and one look
_LOOKS = (0.5, 5.0)  # seconds between looks at memory and GPUs: at first, and at most
_SUMMED = ("cpu_seconds", "gpu_hours", "images", "energy_kwh")
_MOST = ("peak_gpu_memory_gb",)
_TIMES, _BREADTH = ("seconds", "sessions"), ("gpus", "peak_memory_gb")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_GB = 1e9
_PROC = Path("/proc")


def one_after_the_other(first: Cost | None, then: Cost) -> Cost:
    """The cost of two sessions."""
    return _merged(first, then, (*_SUMMED, *_TIMES), (*_MOST, *_BREADTH))


def side_by_side(first: Cost | None, beside: Cost) -> Cost:
    """The cost of two processes of a launch."""
    return _merged(first, beside, (*_SUMMED, *_BREADTH), (*_MOST, *_TIMES))


def _merged(a: Cost | None, b: Cost, summed: tuple[str, ...], most: tuple[str, ...]) -> Cost:
    merged: Cost = {}
    for names, merge in ((summed, sum), (most, max)):
        for name in names:
            known = [one[name] for one in (a or {}, b) if one.get(name) is not None]
            merged[name] = merge(known) if known else None
    return merged


def rounded(cost: Cost) -> Cost:
    """As it stands in a manifest: in order, rounded, with images_per_s."""
    images, seconds = cost["images"], cost["seconds"]
    cost = {**cost, "images_per_s": images / seconds if images and seconds else None}
    places = {
        "seconds": 3, "cpu_seconds": 2, "gpus": 0, "gpu_hours": 6, "images": 0, "images_per_s": 3,
        "peak_memory_gb": 3, "peak_gpu_memory_gb": 3, "energy_kwh": 6, "sessions": 0,
    }  # fmt: skip
    return {
        name: value if (value := cost[name]) is None else round(value, digits or None)
        for name, digits in places.items()
    }


def files(started: Path) -> list[Path]:
    """The ledgers beside a stage.json (or STEM.stage.json) that are there, the main process's
    first."""
    main = file_of(started, 0)
    return [p for p in (main, *sorted(main.parent.glob(f"{main.stem}-*.json"))) if p.exists()]


def file_of(started: Path, rank: int) -> Path:
    """The ledger of a process of a launch."""
    name = "." + started.name.replace("stage.json", "cost")
    return started.with_name(name + (f"-{rank}.json" if rank else ".json"))


def read(path: Path) -> dict[str, Any]:
    """A ledger: what it is of, and "cost". Of a missing or damaged one nothing is known: {}."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found.get("cost"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def so_far(started: Path) -> Cost | None:
    """The cost until now of a stage that is not finished; None where nothing is known."""
    total: Cost | None = None
    for path in files(started):
        if cost := read(path).get("cost"):
            total = side_by_side(total, cost)
    return None if total is None else rounded(total)


def total(ledger: Ledger, started: Path, ours: Callable[[Path], Cost | None]) -> Cost:
    """The cost of a stage over all sessions and processes, for its manifest.

    Args:
        ledger: of the process that ends the stage.
        ours: the cost in a file, or None where it is not of this stage.
    """
    cost = ledger.cost()
    for path in files(started):
        if path != ledger.path and (other := ours(path)):
            cost = side_by_side(cost, other)
    return rounded(cost)


class Ledger:
    """The cost of a session in this process, from now on.

    Args:
        path: where it is kept.
        of: what the file says beside: what is being made.
        before: what earlier sessions cost.

    Attributes: images: done in this session, to be counted up.
    """

    def __init__(self, path: Path, of: Mapping[str, Any], before: Cost | None) -> None:
        self.path, self.images = path, 0
        self._of, self._before = of, before
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._clock, self._cpu = time.monotonic(), _cpu_seconds(_below())
        self._memory = self._gpu_memory = 0.0
        self._gpus = _Gpus()
        looks = threading.Thread(target=_look_on, args=(weakref.ref(self), self._ended))
        looks.daemon = True
        looks.start()

    def cost(self) -> Cost:
        """Of this process, over all sessions; `rounded` makes it what a manifest has."""
        with self._lock:
            return self._cost()

    def _cost(self) -> Cost:
        below = self._look()
        seconds = time.monotonic() - self._clock
        gpus = len(self._gpus.first)
        energy = self._gpus.joules()
        return one_after_the_other(
            self._before,
            {
                "seconds": seconds,
                "cpu_seconds": _cpu_seconds(below) - self._cpu,
                "gpus": gpus,
                "gpu_hours": seconds / 3600 * gpus,
                "images": self.images or None,
                "peak_memory_gb": max(self._memory, _high_water()) / _GB or None,
                "peak_gpu_memory_gb": self._gpus.reserved / _GB if gpus else None,
                "energy_kwh": None if energy is None else energy / 3.6e6,
                "sessions": 1,
            },
        )

    def save(self) -> None:
        """Write it to its file. What cannot be written is not: it is no reason to end a stage."""
        with self._lock, contextlib.suppress(OSError):
            if not self._ended.is_set():
                write_json(self.path, {**self._of, "cost": self.cost()})

    def end(self) -> None:
        """Look and write no more."""
        self._ended.set()
        with self._lock:  # what is being written is finished
            pass

    def _look(self) -> list[Process]:
        below = _below()
        now = _resident() + sum(resident for _, _, resident in below)
        self._memory = max(self._memory, now)
        self._gpus.look()
        return below


def _look_on(ledger: weakref.ref[Ledger], ended: threading.Event) -> None:
    """Until its session has ended, or nobody holds the ledger any more."""
    wait, saved = _LOOKS[0], time.monotonic()
    while not ended.wait(wait):
        wait = min(1.5 * wait, _LOOKS[1])
        if (found := ledger()) is None:
            return
        if time.monotonic() - saved > SAVE_EVERY - wait / 2:
            found.save()
            saved = time.monotonic()
        else:
            found.cost()
        del found


class _Gpus:
    """The GPUs that PyTorch uses in this process, if it is loaded and has begun CUDA.

    Attributes:
        first: device -> joules on its driver's counter when it was first seen in use, None where
            there is no counter.
        reserved: the most bytes on one of them.
    """

    def __init__(self) -> None:
        self.first: dict[int, float | None] = {}
        self.reserved = 0
        self._names: dict[int, bytes] = {}

    def look(self) -> None:
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        try:
            if cuda is None or not cuda.is_initialized():
                return
            for device in range(cuda.device_count()):
                if reserved := cuda.max_memory_reserved(device):
                    self.reserved = max(self.reserved, reserved)
                    if device not in self.first:
                        uuid = getattr(cuda.get_device_properties(device), "uuid", None)
                        self._names[device] = f"GPU-{uuid}".encode()
                        self.first[device] = _joules(self._names[device])
        except (AttributeError, RuntimeError):  # PyTorch is being loaded, or CUDA has failed
            return

    def joules(self) -> float | None:
        """What they took since they were first seen in use; None where one's is not known."""
        taken = 0.0
        for device, first in self.first.items():
            now = _joules(self._names[device])
            if first is None or now is None:
                return None
            taken += now - first
        return taken if self.first else None


Process = tuple[int, float, int]  # pid, seconds of processor time, bytes in memory


_nvml: Any = None


def _joules(uuid: bytes) -> float | None:
    """The energy that a GPU took since its driver was loaded (NVML, from Volta on).

    By ctypes: two calls, for which nothing need be installed.
    """
    global _nvml
    import ctypes  # where there is a GPU in use

    try:
        if _nvml is None:
            library = ctypes.CDLL("libnvidia-ml.so.1")
            _nvml = library if library.nvmlInit_v2() == 0 else False
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        if not _nvml or _nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) != 0:
            return None
        energy = _nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        return millijoules.value / 1000 if energy == 0 else None
    except (OSError, AttributeError):
        _nvml = False
        return None


def _below() -> list[Process]:
    """The processes below this one. All of /proc is read for them, and only if there is a child."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # no child; a system without waitid
        return []
    if not _PROC.is_dir():  # not Linux: what children cost is known once they have ended
        return []
    children: dict[int, list[Process]] = defaultdict(list)
    for pid in filter(str.isdigit, (path.name for path in _PROC.iterdir())):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            with open(f"/proc/{pid}/stat", errors="replace") as stream:
                fields = stream.read().rpartition(")")[2].split()
            # utime and stime, and those of its children that it has waited for
            process = int(pid), sum(map(int, fields[11:15])) / _TICKS, int(fields[21]) * _PAGE
            children[int(fields[1])].append(process)
    below = children[os.getpid()]
    for process in below:  # grows
        below += children[process[0]]
    return below


def _cpu_seconds(below: Sequence[Process]) -> float:
    """Of this process and of those below it that it has waited for, and of the others."""
    return sum(os.times()[:4]) + sum(seconds for _, seconds, _ in below)


def _resident() -> int:
    """Bytes of this process in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _high_water() -> int:
    """The most bytes that this process had in memory since its program began (and not, as
    getrusage has it, those of the process that started it)."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
