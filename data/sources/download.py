"""Fetch a data set or weights (`bash scripts/download.sh NAME`), or say what to do by hand."""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.settings import parse, settings
from data.sources.registry import File, Source, find_source, sources


@settings
class DownloadConfig:
    """What to fetch, and where to."""

    name: str = ""
    """Data set or weights; without a name all are listed."""
    out: Path | None = None
    """Folder. Default: where the variable of the data set points to, or else downloads/NAME."""


def main(argv: Sequence[str] | None = None) -> int | None:
    """The command. Exit code 1 when there is a step to do by hand."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        arguments.insert(0, "--name")
    config = parse(
        DownloadConfig,
        arguments,
        prog="bash scripts/download.sh",
        description="Fetch a data set or weights, or print how to get them by hand. The same "
        "command continues what was cut.",
    )
    if not config.name:
        print(listing())
        return 0
    source = find_source(config.name)
    print(f"{source.title}: {source.size}; licence: {source.licence}")
    folder = config.out or default_folder(source)
    if not source.fetchable:
        print(_filled("By hand: " + source.how))
        print(_then(source, folder))
        return 1
    fetch(source, folder)
    if source.kind == "reference":
        _look(source, folder)
    if source.note:
        print(_filled(source.note))
    print(_then(source, folder))
    return 0


def _look(source: Source, folder: Path) -> None:
    """Say what a reference set that has just come holds."""
    from data.reference.sets import open_scenes

    scenes = open_scenes(f"{source.name}:{folder}?n=all")
    print(f"{len(scenes.locations):,} images of {len(scenes.classes)} classes")
    for note in scenes.notes:
        print(f"note: {note}")


def default_folder(source: Source) -> Path:
    """Where a source goes when nothing else is said."""
    if source.place == "TMP":
        return Path(tempfile.gettempdir())
    if source.place == "TORCH_HUB":
        home = os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch"
        return Path(home) / "hub" / "checkpoints"
    there = os.environ.get(source.variable or "", "")
    return Path(there) if there else Path("downloads") / source.name


def fetch(source: Source, folder: Path) -> None:
    """Fetch a source whole into a folder, check it, and unpack it if it is packed.

    Raises UserError; what was fetched until then stays, and the next call continues.
    """
    from data.sources.fetch import HIDDEN, Record, fetch_file, fetch_hub, unpack

    record = Record(folder)
    if source.unpack and record.values["unpacked"]:
        print(f"already there: {folder}")
        return
    # Archives wait in a hidden folder, so that they are no part of the data set.
    inbox = folder / HIDDEN if source.unpack else folder
    inner = Record(inbox) if source.unpack else record
    if source.hub is not None:
        paths = fetch_hub(source.hub, inbox, inner, dict(source.checksums))
    else:
        paths = [fetch_file(file, inbox, inner, _Bar(file)) for file in source.files]
    if source.unpack:
        count = 0
        for path in paths:
            print(f"unpacking {path.name}")
            count += unpack(path, folder)
        record.values["unpacked"] = {path.name: inner.values["files"][path.name] for path in paths}
        record.save()
        for path in paths:
            path.unlink()
        print(f"{count:,} files in {folder}")
        return
    print(f"{len(paths):,} files in {folder}, sizes and checksums as published")


class _Bar:
    """A progress bar that learns the size on the way."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._bar: Any = None

    def __call__(self, done: int, total: int | None) -> None:
        from tqdm import tqdm

        if self._bar is None:
            quiet = 0.2 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(
                desc=self._file.name, unit="B", unit_scale=True, total=total, mininterval=quiet
            )
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()


def listing() -> str:
    """Every source: name, size, licence and how it comes here."""
    lines = []
    for kind in dict.fromkeys(source.kind for source in sources().values()):
        lines.append(f"{kind}:")
        for source in sources().values():
            if source.kind == kind:
                way = "fetched by this command" if source.fetchable else "by hand"
                lines.append(f"  {source.name:<16} {source.title}")
                lines.append(f"  {'':<16} {source.size}; licence: {source.licence}; {way}")
    lines.append("bash scripts/download.sh NAME [--out FOLDER] fetches one, or says what to do.")
    return "\n".join(lines)


def _filled(text: str) -> str:
    text = " ".join(text.split())
    return textwrap.fill(text, 100, break_on_hyphens=False, break_long_words=False)


def _then(source: Source, folder: Path) -> str:
    if source.place is not None:
        return f"Read by {source.read_by}."
    line = f"Then: export {source.variable}={folder.resolve()}" if source.variable else ""
    return f"{line}\nRead by {source.read_by.replace('FOLDER', str(folder))}".strip()
