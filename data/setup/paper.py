"""What the experiments' paper profile needs: GPU, data, weights and disk, found or missing."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from core.errors import UserError
from data.setup.check import Finding, check, examine, look_at_scenes
from data.sources.registry import Source, sources

HUB = ("huggingface.co", 443)
REFERENCE = 2000  # images: the smallest reference set of Table 4 has 2,100
KEPT = 0.15  # fraction of a corpus whose latents are stored
LATENT_BYTES = 32 * 1024  # mean and standard deviation, both flips, fp16
KINDS = ("corpus", "reference", "downstream", "weights")
RESULTS_BYTES = 60e9  # checkpoints and samples


def paper_needs(
    corpora: Sequence[str],
    holdout: int,
    references: Sequence[str] = ("main",),
    tasks: Sequence[str] = ("sr", "sis"),
    weights: Sequence[str] = (),
    disk: float | None = None,
    without: Sequence[str] = (),
) -> list[Finding]:
    """Every need of the paper profile.

    Args:
        corpora: names of corpora, such as 'git10m'; of 'git10m_85' the first word is taken.
        holdout: evaluation images that are set aside of each, beside which some must remain.
        references: main (REFERENCE_ROOT), or names of reference sets, such as 'ucm'.
        tasks: sr, sis or both.
        weights: names of weights that are needed beside those of every experiment.
        disk: GB that are needed; by default those of one corpus pruned by 85 %.
        without: names of weights that most experiments need, and these do not.

    Raises UserError when there is no such corpus, reference set or weights.
    """
    known = {kind: {s.name: s for s in sources().values() if s.kind == kind} for kind in KINDS}
    papers = {name: one for name, one in known["corpus"].items() if one.paper}
    for name in corpora:
        if name.partition("_")[0] not in papers:
            raise UserError(
                f"--experiment {name}: on which corpus? expected a name that begins with "
                f"{', '.join(papers)}"
            )
    found = [papers[name.partition("_")[0]] for name in corpora]
    sets = [_named(known["reference"], name, "reference") for name in references if name != "main"]
    asked = [_named(known["weights"], name, "weights") for name in weights]
    asked += [s for s in known["weights"].values() if s.paper and s not in asked]
    spared = [_named(known["weights"], name, "weights") for name in without]
    asked = [source for source in asked if source not in spared]
    reachable = hub_reachable()
    return [
        check_gpu(),
        *(check(corpus, corpus.paper + holdout) for corpus in found),
        *([check_reference(REFERENCE)] if "main" in references else []),
        *(check(one, 100) for one in sets),
        *(check(s, s.paper) for s in known["downstream"].values() if s.paper and s.task in tasks),
        *(check_weights(source, reachable) for source in asked),
        check_disk(max((corpus.images or 10_000_000) for corpus in found), disk),
    ]


def _named(known: dict[str, Source], name: str, what: str) -> Source:
    if name not in known:
        raise UserError(f"{name}: no such {what}; expected of {', '.join(known)}")
    return known[name]


def check_gpu() -> Finding:
    """A CUDA device, asked of the driver itself: importing torch would take longer."""
    way_out = (
        "run on a machine with an NVIDIA GPU (the paper: 4 x H100), "
        "or PROFILE=mini for small models on your images"
    )

    def look() -> tuple[str, list[str]]:
        try:
            driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise UserError("no CUDA driver on this machine") from None
        count, memory = ctypes.c_int(), ctypes.c_size_t()
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            raise UserError("the CUDA driver does not start")
        if not count.value:
            raise UserError("the CUDA driver knows no GPU")
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
        return f"{count.value}, {memory.value / 2**30:.0f} GiB each", []

    return examine("GPU", "machine", "", way_out, look)


def check_reference(least: int = 0) -> Finding:
    """REFERENCE_ROOT, what the experiments read: anything that prune.embed --reference takes."""
    name, value = "REFERENCE_ROOT", os.environ.get("REFERENCE_ROOT", "")
    way_out = "bash scripts/download.sh nwpu --out DIR, and REFERENCE_ROOT=nwpu:DIR"
    if not value:
        title = "the reference set that the experiments read"
        return Finding(name, "reference", "not set", title, [way_out])
    look = functools.partial(look_at_scenes, value, value, least)
    return examine(name, "reference", value, way_out, look, bool(least))


def check_weights(source: Source, reachable: bool) -> Finding:
    """Weights: a local folder, the hub's cache, or a network from which they will be fetched."""
    finding = check(source)
    value = os.environ.get(source.variable or "", "") or (source.hub.repo if source.hub else "")
    local = (value and Path(value).is_dir()) or (source.hub is None and finding.ready)
    if local or finding.state == "missing":
        return finding

    def look() -> tuple[str, list[str]]:
        if source.hub is not None:
            from huggingface_hub import try_to_load_from_cache

            try:
                if isinstance(try_to_load_from_cache(value, source.found[0]), str):
                    return f"{value}: in the hub's cache", []
            except ValueError as error:
                raise UserError(f"neither a folder nor a hub id ({error})") from None
        if not reachable:
            raise UserError("not on this machine, and the network does not answer")
        return f"{value or source.title}: fetched when first used ({source.size})", []

    then = f" and set {source.variable}=DIR" if source.variable else ""
    way_out = f"where there is a network, {source.how}{then}"
    return examine(finding.name, "weights", value or source.title, way_out, look)


def check_disk(images: int, gigabytes: float | None = None) -> Finding:
    """Room for latents, checkpoints and samples: so many GB, or what one subset of 15 % needs."""
    needed = KEPT * images * LATENT_BYTES + RESULTS_BYTES
    if gigabytes is not None:
        needed = gigabytes * 1e9
    free = shutil.disk_usage(Path.cwd()).free
    there = f"{free / 1e9:.0f} GB free here, about {needed / 1e9:.0f} GB needed"
    if free >= needed:
        return Finding("disk", "machine", "found", there)
    way_out = "free some, or set RUNS=/path/on/a/larger/disk"
    return Finding("disk", "machine", "missing", there, [way_out])


def hub_reachable() -> bool:
    """Whether the model hub answers within two seconds."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        socket.create_connection(HUB, timeout=2.0).close()
    except OSError:
        return False
    return True
