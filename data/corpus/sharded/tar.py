"""Tar shards in WebDataset's manner, read by offset.

Members of one name are one sample, wherever in the tar they lie; what follows the name says what
each is: `00017.jpg` and `00017.caption`, or RS5M's `00017.img_content`, `00017.img_name`,
`00017.caption`. The name ends where the extension begins: the last part after a dot and, before it,
parts of letters alone. So `50.0004_7.5678.jpg` is the .jpg of `50.0004_7.5678`, and `00017.seg.png`
the .seg.png of `00017`. A sample's key is `<shard>/<that name>`; which images a sample with
several of them stands for is not guessed (see `_choose`). With the option `key=member` every image
is a sample, and its key is its name in the tar, extension and all: what a folder of the same
files gives.

The headers of a tar are walked once (data.corpus.sharded.tarwalk), its contents not touched;
after that every image is one read at a known offset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError
from data.corpus.base import Location, Rows, Sample, key_of_path, unreadable
from data.corpus.folder import IMAGES
from data.corpus.sharded.shards import ShardCorpus, once_a_file
from data.corpus.sharded.tarwalk import Error, Member, tar_members

ANY_FORMAT = "img_content"  # RS5M: encoded bytes of any image format
IMAGE_MEMBERS = frozenset({ANY_FORMAT, "img", *(suffix[1:] for suffix in IMAGES)})
BESIDE = frozenset({
    "mask", "masks", "seg", "segmentation", "label", "labels", "annotation", "gt", "depth",
    "thumb", "thumbnail",
})  # fmt: skip
"""`00017.<one of these>.png` belongs to the image `00017.jpg`, and is not another one."""
_EXTENSION = re.compile(r"(?<=.)(?:\.[^\W\d](?:[^\W\d]|-)*)*\.[^\W\d][\w+-]*$", re.DOTALL)
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip


class Entry(NamedTuple):  # quicker to make than a frozen dataclass: there are millions
    """Where one sample's image is. `error` when there is none to read."""

    key: str
    name: str
    offset: int
    size: int
    error: Error | None = None


class TarCorpus(ShardCorpus):
    """Tar files of WebDataset samples.

    Options: image=EXT, the member that is the image; key=member, its name in the tar as the key.
    """

    kind = "tar"
    options_known = ("image", "key")

    def __init__(
        self,
        spec: str,
        base: Path,
        files: Sequence[Path],
        options: Mapping[str, str],
        root: Path | None = None,
    ) -> None:
        super().__init__(spec, base, files, options, root)
        if options.get("key", "member") != "member":
            raise UserError(f"{spec}: key={options['key']}: of a tar, key=member is all there is")

    def check(
        self, shards: Sequence[str] | None = None, extras: tuple[str, ...] | None = None
    ) -> None:
        for shard in self.shards() if shards is None else shards:
            path = self.path(shard)
            with open(path, "rb") as stream:
                head = stream.read(6)
            for magic, name in _COMPRESSED.items():
                if head.startswith(magic):
                    raise UserError(
                        f"{path}: compressed with {name}, so that no image can be read by its "
                        "place; decompress it (images do not get smaller by it anyway)"
                    )

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Rows:
        entries = self._entries(shard)
        rows = range(len(entries))[start:stop]
        chosen = list(zip(rows, entries[rows.start : rows.stop], strict=True))
        return Rows(partial(read_entries, os.fspath(self.path(shard)), shard, chosen), len(rows))

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        # Offsets first, shard by shard: in another order each image could cost an index.
        found: list[Entry | None] = [None] * len(locations)
        order = sorted(range(len(locations)), key=lambda i: locations[i][1])
        runs = sum(1 for _ in groupby(locations, key=lambda location: location[1]))
        if runs > len({location[1] for location in locations}):
            for i in order:
                found[i] = self._entry(locations[i])
        for shard, places in groupby(range(len(locations)), key=lambda i: locations[i][1]):
            entries = ((locations[i][2], found[i] or self._entry(locations[i])) for i in places)
            yield from read_entries(os.fspath(self.path(shard)), shard, entries)

    def _entry(self, location: Location) -> Entry:
        _, shard, row = location
        entries = self._entries(shard)
        self._require(location, len(entries))
        self._verify(entries[row].key, location)
        return entries[row]

    def _entries(self, shard: str) -> list[Entry]:
        image, key = self.options.get("image", ""), self.options.get("key", "")
        return index_tar(os.fspath(self.path(shard)), shard, image, key)

    def _rows(self, shard: str) -> int:
        return len(self._entries(shard))


def read_entries(path: str, shard: str, entries: Iterable[tuple[int, Entry]]) -> Iterator[Sample]:
    """The samples of (row, entry) pairs. What cannot be read comes with an error."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        why = unreadable(path, error)
        for row, entry in entries:
            yield Sample(entry.key, shard, row, None, entry.error or why)
        return
    try:
        for row, entry in entries:
            yield _read_entry(path, descriptor, shard, row, entry)
    finally:
        os.close(descriptor)


def _read_entry(path: str, descriptor: int, shard: str, row: int, entry: Entry) -> Sample:
    if entry.error is not None:
        return Sample(entry.key, shard, row, None, entry.error)
    try:
        data = os.pread(descriptor, entry.size, entry.offset)
    except OSError as error:
        return Sample(entry.key, shard, row, None, unreadable(path, error))
    if len(data) != entry.size:
        detail = f"{len(data):,} of {entry.size:,} bytes are left in the tar"
        return Sample(entry.key, shard, row, None, ("damaged-shard", detail))
    return Sample(entry.key, shard, row, data, name=entry.name)


@once_a_file
def index_tar(path: str, shard: str, image: str = "", key: str = "") -> list[Entry]:
    """The samples of a tar, each where its first member lies.

    What is wrong with the file is a sample with an error. Raises UserError only for what says
    nothing about it (too many open files, a failing disk).
    """
    found: list[tuple[str, dict[str, Member]] | Entry] = []
    groups: dict[str, dict[str, Member]] = {}
    for member in tar_members(path):
        if member.lost:
            found.append(Entry(f"{shard}#{member.name}", "", 0, 0, member.error))
            continue
        name, extension = split_name(member.name)
        group = groups.get(name)
        if group is None or extension in group:  # of a name that comes twice, two samples
            group = groups[name] = {}
            found.append((name, group))
        group[extension] = member
    for _, group in (sample for sample in found if not isinstance(sample, Entry)):
        for extension, member in group.items():
            if member.link:
                group[extension] = _followed(member, groups)
    entries: list[Entry] = []
    for sample in found:
        if isinstance(sample, Entry):
            entries.append(sample)
        elif key:
            entries += _each(sample[1], image.lower())
        else:
            name, group = sample
            entries.append(_choose(f"{shard}/{key_of_path(name)}", group, image.lower()))
    return entries


def _followed(link: Member, groups: Mapping[str, Mapping[str, Member]]) -> Member:
    """A link with the contents of the member that it stands for; as it is where there is none."""
    target = link
    for _ in range(8):  # links to links; those that lead in a circle stay links
        name, extension = split_name(target.link)
        found = groups.get(name, {}).get(extension)
        if found is None:
            break
        target = found
        if not target.link:
            break
    return link if target.error is not None else target._replace(name=link.name)


def split_name(name: str) -> tuple[str, str]:
    """A member's name as that of its sample and its extension, '' for none.

    >>> split_name("d/50.0004_7.5678.jpg"), split_name("d/00017.seg.png"), split_name("0.5")
    (('d/50.0004_7.5678', 'jpg'), ('d/00017', 'seg.png'), ('0.5', ''))
    """
    stem, _, extension = name.rpartition(".")
    if extension.isalpha() and "." not in stem and stem[-1:] not in ("", "/"):
        return stem, extension  # nearly all
    folder, slash, last = name.rpartition("/")
    match = _EXTENSION.search(last)
    if match is None:
        return name, ""
    return folder + slash + last[: match.start()], match[0][1:]


def _choose(key: str, group: Mapping[str, Member], image: str) -> Entry:
    """The member of a sample that is its image: the only one, or that which `image` names."""
    names = {extension: extension.lower() for extension in group}
    if image in names.values():
        fits = [e for e in group if names[e] == image]
    else:
        wanted = frozenset({image}) if image else IMAGE_MEMBERS
        fits = [e for e in group if names[e].rpartition(".")[2] in wanted]
        if image or any("." not in e for e in fits):
            fits = [e for e in fits if names[e].partition(".")[0] not in BESIDE]
    if len(fits) != 1:
        there = ", ".join(key_of_path(e) or "without extension" for e in group)
        what = f"no .{image} member" if image else "no image member"
        detail = f"{what} (members: {there})"
        if fits:
            detail = (
                f"{len(fits)} image members ({there}); choose one with SPEC?image=EXTENSION, "
                "or take each as an image of its own with SPEC?key=member"
            )
        return Entry(key, "", 0, 0, ("no-image", detail))
    member = group[fits[0]]
    name = "" if names[fits[0]] == ANY_FORMAT else key_of_path(f"x.{fits[0]}")
    return Entry(key, name, member.offset, member.size, member.error)


def _each(group: Mapping[str, Member], image: str) -> Iterator[Entry]:
    """Every image of a sample by its own name; where none is, all its members, to be rejected."""
    wanted = (image,) if image else IMAGE_MEMBERS
    ends = {e: e.lower() if "." in image else e.lower().rpartition(".")[2] for e in group}
    fits = [member for e, member in group.items() if ends[e] in wanted]
    for member in fits or group.values():
        key, error = key_of_path(member.name), member.error
        if image and not fits:
            error = error or ("no-image", f"not a .{image} member")
        name = "" if key.lower().endswith(f".{ANY_FORMAT}") else key
        yield Entry(key, name, member.offset, member.size, error)
