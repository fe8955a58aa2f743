"""Manifests: what a finished stage is made of and what it wrote, with each file's digest."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.parallel import available_cpus

SHOWN = 1 << 30  # bytes of inputs from which checking them has a progress bar
FORMAT = 1  # version of the manifest's own layout
REQUIRED = ("fingerprint", "stage", "params", "inputs", "summary", "files")  # of a manifest
_FORMERLY = {
    "identity": "fingerprint",
    "vae_identity": "vae_fingerprint",
    "prototypes": "centroids",
}
_FORMER_SETTINGS = {"besides": "exclude", "near": "dedup_threshold", "avoid": "exclude"}
_FORMER_STAGES = {f"data.world.{name}": f"world.{name}" for name in ("convert", "convert_sets")}
_FORMER_STAGES["data.world"] = "world.build"
FILES = {".parquet", ".json", ".md", ".html", ".txt", ".csv"}  # outputs that are single files


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_path(out: Path) -> Path:
    """`OUT/manifest.json` for a folder, `STEM.manifest.json` beside a single file."""
    if out.suffix in FILES and not out.is_dir():
        return out.with_suffix(".manifest.json")
    return out / "manifest.json"


def present_names(record: dict[str, Any]) -> dict[str, Any]:
    """A JSON object by the present names of its keys, where version 0.1 had others."""
    record = {_FORMERLY.get(name, name): value for name, value in record.items()}
    for kind in ("params", "inputs"):  # elsewhere, as in a report, these words are other things
        if isinstance(found := record.get(kind), dict):
            record[kind] = {_FORMER_SETTINGS.get(name, name): found[name] for name in found}
    return record


def read_record(path: Path) -> dict[str, Any]:
    """A manifest.json or stage.json. Raises FileNotFoundError, and UserError when it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_hook=present_names)
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(f"{path}: unreadable record ({error}); delete it and run again") from None
    if (former := record.get("stage")) in _FORMER_STAGES:
        record["stage"] = _FORMER_STAGES[former]
    return record


def read_manifest(out: Path | str) -> dict[str, Any]:
    """The manifest of a finished stage. Raises UserError when it is missing or unreadable."""
    path = manifest_path(Path(out))
    try:
        manifest = read_record(path)
    except FileNotFoundError:
        raise UserError(
            f"{out}: not a finished stage ({path} is missing); run the command that makes it first"
        ) from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: manifest format {manifest.get('format')}, expected {FORMAT}")
    lacking = [name for name in REQUIRED if name not in manifest]
    if lacking:
        raise UserError(f"{path}: lacks '{lacking[0]}'; delete it and run its command again")
    return manifest


class Fingerprint(str):
    """The fingerprint of a finished stage, or of several, which knows where they lie."""

    outs: tuple[Path, ...]

    def __add__(self, other: str) -> Fingerprint:
        """This one and another one, as one input of a stage."""
        both = Fingerprint(f"{self}+{other}")
        both.outs = (*self.outs, *getattr(other, "outs", ()))
        return both


def fingerprint(out: Path | str, *made_by: str) -> Fingerprint:
    """The fingerprint of a finished stage: a digest of what it is made of and what it wrote.

    With names of stages, raises UserError for what none of them made.
    """
    manifest = read_manifest(out)
    if made_by and manifest.get("stage") not in made_by:
        raise UserError(f"{out}: made by {manifest.get('stage')}, not by {' or '.join(made_by)}")
    found = Fingerprint(manifest["fingerprint"])
    found.outs = (Path(out),)
    return found


def verify_files(outs: Iterable[Path]) -> None:
    """Hold every file of finished stages against the digest in its manifest, reading it all.

    Raises UserError naming the first that is missing or has other bytes: a manifest vouches for
    what was written, and disks, copies and editors change files without changing their size.
    """
    from core.progress import progress  # data.check runs where tqdm is not installed

    recorded, size = {}, 0
    for out in outs:
        manifest, base = read_manifest(out), manifest_path(out).parent
        for name, entry in manifest["files"].items():
            recorded[base / name] = (manifest["stage"], str(entry["sha256"]))
            size += entry["bytes"]
    if not recorded:
        return
    with ThreadPoolExecutor(available_cpus()) as threads:
        found = threads.map(_digest_or_none, recorded)
        small, total = size < SHOWN, len(recorded)
        shown = progress(found, total=total, name="check inputs", unit="file", disable=small)
        for (path, (stage, expected)), digest in zip(recorded.items(), shown, strict=True):
            if digest != expected:
                _damaged(path, stage, digest)


def verify_file(path: Path, folder: Path | None = None) -> None:
    """The same of one file that has a manifest beside it; without one nothing is known.

    Args:
        path: an output that is a file of its own, or one of those in `folder`.
        folder: an output that may have a manifest.
    """
    manifest = manifest_path(folder or path)
    if not manifest.exists():
        return
    record = read_record(manifest)
    entry = (record.get("files") or {}).get(path.name)
    if entry and (digest := _digest_or_none(path)) != entry["sha256"]:
        _damaged(path, str(record.get("stage")), digest)


def _digest_or_none(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except FileNotFoundError:
        return None


def _damaged(path: Path, stage: str, digest: str | None) -> None:
    what = (
        "missing"
        if digest is None
        else f"damaged: its bytes (SHA-256 {digest[:12]}) are not those that {stage} wrote"
    )
    raise UserError(
        f"{path}: {what}; delete it and run its command ({stage}) again, which makes it anew"
    )


def code_version() -> str:
    """The checkout's commit, with '+dirty' when files differ from it; 'unknown' without git."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
