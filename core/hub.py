"""Models by name: a local folder or file, the Hugging Face hub's cache, or the hub itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError

_REPOSITORY = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:/(.+))?")


def local_path(source: str, flag: str, revision: str | None = None) -> Path | None:
    """The file or folder that `source` names; None where it can only be a hub repository.

    Raises UserError when it is neither, and for a revision of something local.
    """
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise UserError(f"--revision {revision}: {source} is a local path; leave it out")
        return path
    if source.startswith(".") or _REPOSITORY.fullmatch(source) is None:
        raise UserError(f"{flag} {source}: no such file or folder, nor a hub repository")
    return None


def hub_file(source: str, default: str, flag: str, revision: str | None = None) -> Path:
    """One file of 'owner/repo' (then `default`) or 'owner/repo/path/in/it', cached or fetched."""
    match = _REPOSITORY.fullmatch(source)
    if match is None:
        raise UserError(f"{flag} {source}: not the name of a hub repository")
    repository, inside = match[1], match[2] or default

    from huggingface_hub import hf_hub_download

    found: str = _cached_or_fetched(
        f"{repository}/{inside}",
        f"hf download {repository} {inside} --local-dir FOLDER",
        flag,
        lambda offline: hf_hub_download(
            repository, inside, revision=revision, local_files_only=offline
        ),
    )
    return Path(found)


def hub_folder(
    repository: str,
    patterns: Sequence[str],
    complete: Callable[[Path], bool],
    flag: str,
    revision: str | None = None,
    *,
    otherwise: Sequence[str] = (),
) -> Path:
    """A snapshot of a hub repository's files of these patterns, from the cache or fetched.

    `complete` says whether a folder has what is needed: a cache may hold a part of it.
    `otherwise` are the patterns to take where those files are not all that is needed.
    Raises UserError when it cannot be had, or lacks what is needed.
    """
    from huggingface_hub import snapshot_download

    def fetch(offline: bool) -> Path:
        for chosen in filter(None, (patterns, otherwise)):
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=list(chosen),
                    local_files_only=offline,
                )
            )
            if complete(folder):
                return folder
        names = ", ".join(dict.fromkeys([*patterns, *otherwise]))
        raise FileNotFoundError(f"it lacks some of the files {names} that are read")

    found: Path = _cached_or_fetched(
        repository, f"hf download {repository} --local-dir FOLDER", flag, fetch
    )
    return found


def _cached_or_fetched(what: str, by_hand: str, flag: str, fetch: Callable[[bool], Any]) -> Any:
    why = ""
    for offline in (True, False):  # what the cache holds is used without asking the hub
        try:
            return fetch(offline)
        except Exception as error:  # offline, no such repository, gated: many types
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise UserError(
        f"{what}: not a local path, and cannot be had from the Hugging Face hub ({why})\n"
        f"fetch it where there is a network: {by_hand}\nand pass {flag} FOLDER"
    )
