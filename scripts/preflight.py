"""What the paper profile needs, each line found or missing with its remedy. Exit 1 when not ready.

    GIT10M_ROOT=... REFERENCE_ROOT=... SECOND_ROOT=... OEM_ROOT=... python scripts/preflight.py

Looks only; downloads and writes nothing. Runs in a few seconds (no torch import).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
IMAGES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"}
HUB = ("huggingface.co", 443)


@dataclass
class Check:
    """One line of the list: what is needed, whether it is there, and otherwise what to do."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def count_images(folder: Path, enough: int) -> int:
    """Number of image files below `folder`, counting no further than `enough`."""
    from data.corpus.folder import walk_folders

    count = 0
    for _, _, files in walk_folders(folder):
        count += sum(Path(name).suffix.lower() in IMAGES for name in files)
        if count >= enough:
            break
    return count


def check_gpu() -> Check:
    """A CUDA device, asked of the driver itself: importing torch would take longer."""
    remedy = (
        "run on a machine with an NVIDIA GPU (the paper: 4 x H100), "
        "or PROFILE=mini for small models on your images"
    )
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Check("GPU", False, "no CUDA driver on this machine", remedy)
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return Check("GPU", False, "the CUDA driver does not start", remedy)
    memory = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), 0)
    found = f"{count.value}, {memory.value / 2**30:.0f} GiB each"
    return Check("GPU", count.value > 0, found, remedy)


def check_corpus(variable: str, wanted: int, how: str) -> Check:
    """A corpus: a folder of images, or any other specification that --corpus takes."""
    name = f"{variable} (corpus)"
    spec = os.environ.get(variable, "")
    if not spec:
        return Check(name, False, "not set", how)
    from core.errors import UserError
    from data.corpus.folder import FolderCorpus
    from data.corpus.specs import open_corpus

    try:
        corpus = open_corpus(spec)
        if isinstance(corpus, FolderCorpus) and corpus.root is not None:
            count, shards = count_images(corpus.root, wanted), 0
        else:
            corpus.check()
            count, shards = 0, len(corpus.shards())
            for shard in corpus.shards():
                count += corpus.count(shard)
                if count >= wanted:
                    break
    except UserError as error:
        return Check(name, False, str(error).splitlines()[0], how)
    found = f"{spec}: {'at least ' if count >= wanted else ''}{count:,} images"
    found += f" in {shards:,} shards" if shards else ""
    return Check(name, count >= wanted, found, f"at least {wanted:,} are needed; {how}")


def check_folder(variable: str, what: str, wanted: int, how: str) -> Check:
    """A folder of images named by an environment variable."""
    value = os.environ.get(variable, "")
    if not value:
        return Check(f"{variable} ({what})", False, "not set", how)
    folder = Path(value)
    if not folder.is_dir():
        return Check(f"{variable} ({what})", False, f"{value}: no such folder", how)
    count = count_images(folder, wanted)
    found = f"{value}: {'at least ' if count >= wanted else ''}{count:,} images"
    remedy = f"at least {wanted:,} are needed; {how}"
    return Check(f"{variable} ({what})", count >= wanted, found, remedy)


def check_reference(wanted: int) -> Check:
    """REFERENCE_ROOT: a folder, or what prune.embed --reference takes (ucm:..., union5:)."""
    from core.errors import UserError
    from data.reference.sets import open_scenes

    name, value = "REFERENCE_ROOT (reference set)", os.environ.get("REFERENCE_ROOT", "")
    how = "bash scripts/download.sh nwpu --out DIR, and REFERENCE_ROOT=nwpu:DIR"
    if not value:
        return Check(name, False, "not set", how)
    try:
        scenes = open_scenes(value)
    except UserError as error:
        return Check(name, False, str(error), how)
    found = f"{value}: {len(scenes.locations):,} images of {len(scenes.classes)} classes"
    notes = "".join(f" ({note})" for note in scenes.notes)
    remedy = f"at least {wanted:,} are needed; {how}"
    return Check(name, len(scenes.locations) >= wanted, found + notes, remedy)


def hub_reachable() -> bool:
    """Whether the model hub answers within two seconds."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        socket.create_connection(HUB, timeout=2.0).close()
    except OSError:
        return False
    return True


def check_model(variable: str, hub_id: str, size: str, reachable: bool) -> Check:
    """Weights: a local folder named by a variable, the hub's cache, or a reachable hub."""
    value = os.environ.get(variable, hub_id)
    name = f"{variable} ({hub_id})"
    from data.sources.registry import sources

    source = next((s.name for s in sources().values() if s.variable == variable), "")
    remedy = (
        f"fetch {hub_id} ({size}) where there is a network (bash scripts/download.sh {source} "
        f"--out DIR) and set {variable}=DIR"
    )
    if Path(value).is_dir():
        ok = (Path(value) / "config.json").is_file()
        return Check(name, ok, f"{value}{'' if ok else ': no config.json'}", remedy)
    try:
        from huggingface_hub import try_to_load_from_cache

        if isinstance(try_to_load_from_cache(value, "config.json"), str):
            return Check(name, True, "in the hub's cache")
    except (ImportError, ValueError) as error:
        return Check(name, False, f"{value}: neither a folder nor a hub id ({error})", remedy)
    if reachable:
        return Check(name, True, f"will be downloaded from the hub ({size})")
    return Check(name, False, "not in the hub's cache, and the hub does not answer", remedy)


def check_inception(reachable: bool) -> Check:
    name = "Inception weights (clean-fid)"
    place = Path(tempfile.gettempdir()) / "inception-2015-12-05.pt"
    if place.is_file():
        return Check(name, True, str(place))
    if reachable:
        return Check(name, True, "will be downloaded by clean-fid (96 MB)")
    remedy = f"fetch inception-2015-12-05.pt (clean-fid's README names the address) to {place}"
    return Check(name, False, "absent, and there is no network", remedy)


def check_lpips(reachable: bool) -> Check:
    """AlexNet trunk of LPIPS, in torch's hub cache."""
    name = "LPIPS weights (torchvision's AlexNet)"
    home = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch"))
    place = home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    if place.is_file():
        return Check(name, True, str(place))
    if reachable:
        return Check(name, True, "will be downloaded by torchvision (233 MB)")
    return Check(name, False, "absent, and there is no network", f"copy the file to {place}")


def check_disk(images: int) -> Check:
    """Latents (32 KiB each: mean and std, both flips, fp16), checkpoints and samples."""
    needed = 0.15 * images * 32 * 1024 + 60e9
    free = shutil.disk_usage(Path.cwd()).free
    return Check(
        "disk",
        free >= needed,
        f"{free / 1e9:.0f} GB free here, about {needed / 1e9:.0f} GB needed",
        "free some, or set RUN=/path/on/a/larger/disk",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--holdout", type=int, default=5000, help="evaluation images set aside")
    arguments = parser.parse_args()
    # Below this, 15 % of what the hold-out leaves would not fill a few batches of 256.
    smallest = arguments.holdout + 10_000
    reachable = hub_reachable()
    checks = [
        check_gpu(),
        check_corpus(
            "GIT10M_ROOT", smallest,
            "get Git-10M (hf download lcybuaa/Git-10M --repo-type dataset, 394 GB) and set "
            "GIT10M_ROOT=git10m:FOLDER, or a folder of image files",
        ),
        check_reference(2000),
        check_folder(
            "SECOND_ROOT", "super-resolution", 100,
            "bash scripts/download.sh second says how to get SECOND (4,662 pairs)",
        ),
        check_folder(
            "OEM_ROOT", "semantic image synthesis", 100,
            "bash scripts/download.sh oem --out DIR fetches OpenEarthMap (9.1 GB)",
        ),
        check_model("GIT_RSCLIP", "lcybuaa/Git-RSCLIP", "2.8 GB", reachable),
        check_model("SD_VAE", "stabilityai/sd-vae-ft-ema", "335 MB", reachable),
        check_inception(reachable),
        check_lpips(reachable),
        check_disk(10_503_567),
    ]  # fmt: skip
    missing = [check for check in checks if not check.ok]
    print("Preflight of the paper profile:")
    for check in checks:
        print(f"  [{'ok' if check.ok else 'MISSING':>7}] {check.name}: {check.found}")
        if not check.ok:
            print(f"            -> {check.remedy}")
    if missing:
        print(f"{len(missing)} of {len(checks)} missing; nothing was started.")
        print("What each data set is and how to get it: bash scripts/check_data.sh")
        print("Without them: PROFILE=mini runs small models, offline, on a CPU (same command).")
        return 1
    print("Everything is there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
