"""A data set or weights by name: fetched, or what to do by hand."""

from __future__ import annotations

import textwrap
from pathlib import Path

from data.reference.sets import open_scenes
from data.sources.fetch import fetch
from data.sources.registry import Source, find_source, sources


def download(name: str, out: Path | None) -> int:
    """Fetch a source into a folder. Returns 1, after saying it, when there is a step by hand.

    Raises UserError when there is no such source, or it cannot be fetched.
    """
    source = find_source(name)
    print(f"{source.title}: {source.size}; licence: {source.licence}")
    folder = out or source.folder
    if not source.fetchable:
        print(_filled("By hand: " + source.how))
        print(_then(source, folder))
        return 1
    fetch(source, folder)
    if source.kind == "reference":
        scenes = open_scenes(f"{source.name}:{folder}?n=all")
        print(f"{len(scenes.locations):,} images of {len(scenes.classes)} classes")
        for note in scenes.notes:
            print(f"note: {note}")
    if source.note:
        print(_filled(source.note))
    print(_then(source, folder))
    return 0


def listing() -> str:
    """Every source: name, size, licence and how it comes here."""
    lines = []
    kind = ""
    for source in sources().values():
        if source.kind != kind:
            kind = source.kind
            lines.append(f"{kind}:")
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
