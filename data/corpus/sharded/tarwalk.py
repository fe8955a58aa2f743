"""The members of a tar file, to its last byte.

Headers are followed to the end of the file and not only to the first end mark: tars that were
joined with `cat` have several. Where none is found, the next sound one is looked for, and the
bytes in between are reported as lost. Plain headers are parsed here, all others (long names, pax)
by tarfile: in half the time that tarfile alone would take.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from data.corpus.base import key_of_path, unreadable
from data.corpus.folder import MAX_FILE_BYTES

BLOCK = 512
CHUNK = 1 << 18  # bytes looked through at a time
Error = tuple[str, str]


class Member(NamedTuple):
    """A member of a tar: its name (as `os` takes it), and where its contents are."""

    name: str
    offset: int
    size: int
    error: Error | None = None
    lost: bool = False  # no member, but bytes that should be one; the name says where
    link: str = ""  # the member that a link stands for


def tar_members(path: str) -> Iterator[Member]:
    """Members that are samples, or ought to be, and stretches of the file that are lost.

    Directories, labels and hidden members (a leading dot) are left out. Raises UserError only for
    what says nothing about the file (too many open files, a failing disk).
    """
    try:
        stream = open(path, "rb", buffering=0)
        with stream:
            yield from _walk(stream, os.fstat(stream.fileno()).st_size)
    except OSError as failure:
        yield Member("end", 0, 0, unreadable(path, failure), lost=True)


def _walk(stream: IO[bytes], end: int) -> Iterator[Member]:
    descriptor, offset, ended = stream.fileno(), 0, False
    while offset < end:
        header = os.pread(descriptor, BLOCK, offset)
        if not any(header[:8]) and not any(header):
            # An end mark, or padding. The first byte after it begins another tar, if one follows.
            offset, ended = _after_zeros(descriptor, offset, end), True
            continue
        if len(header) < BLOCK and not ended:
            break
        found = _header(stream, header, offset, end) if len(header) == BLOCK else None
        if found is None:
            following = _next_header(descriptor, offset + 1, end)
            yield Member(f"{offset}", 0, 0, _no_header(offset, following, ended), lost=True)
            if following == end:
                return
            offset, ended = following, False
            continue
        offset, ended = found[1], False
        if found[0] is not None:
            yield found[0]
    if not ended:
        detail = f"the tar ends at byte {end:,} without an end mark: cut short" if end else "empty"
        yield Member("end", 0, 0, ("damaged-shard", detail), lost=True)


def _no_header(start: int, stop: int, ended: bool) -> Error:
    after = "after an end mark, " if ended else ""
    return "damaged-shard", (
        f"{after}no tar header at byte {start:,}: {stop - start:,} bytes from there are neither "
        "a member nor padding"
    )


def _after_zeros(descriptor: int, offset: int, end: int) -> int:
    """Where the first byte that is not zero lies, from an offset on; `end` if there is none."""
    while offset < end and (chunk := os.pread(descriptor, CHUNK, offset)):
        if rest := chunk.lstrip(b"\0"):
            return offset + len(chunk) - len(rest)
        offset += len(chunk)
    return end


def _next_header(descriptor: int, offset: int, end: int) -> int:
    """Where the next sound header lies, by its magic and checksum; `end` if there is none."""
    while chunk := os.pread(descriptor, CHUNK + BLOCK, offset):
        at = chunk.find(b"ustar", 257)
        while 0 <= at - 257 <= len(chunk) - BLOCK:
            if _sum_fits(chunk[at - 257 : at - 257 + BLOCK]):
                return offset + at - 257
            at = chunk.find(b"ustar", at + 1)
        if len(chunk) < CHUNK + BLOCK:
            break
        offset += CHUNK
    return end


def _header(
    stream: IO[bytes], header: bytes, offset: int, end: int
) -> tuple[Member | None, int] | None:
    """The member at an offset, None for one that is no sample, and where the next one is.

    None when there is no sound header.
    """
    plain = _plain(header)
    error, link = None, ""
    if plain is not None:
        name, size, start = os.fsdecode(plain[0]), plain[1], offset + BLOCK
        following = start + -(-size // BLOCK) * BLOCK
    else:
        other = _other(stream, header, offset, end)
        if other is None:
            return None
        member, following = other
        if member.isdir() or member.type in _LABELS:
            return None, following
        name, size, start = member.name, member.size, member.offset_data
        error, link = _not_a_file(member), _target(member)
    if name[:1] in "./" or "/." in name or "//" in name:
        absolute = "/" if name.startswith("/") else ""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if any(part.startswith(".") and part != ".." for part in parts):
            return None, following
        name = absolute + "/".join(parts)
        if absolute or ".." in parts:
            error = UNSAFE
    if error is None and size > MAX_FILE_BYTES:
        error = ("too-large", f"{size:,} bytes, limit {MAX_FILE_BYTES:,}")
    elif error is None and start + size > end:
        error = ("damaged-shard", "the tar ends in the middle of it: cut short")
    return Member(name, start, size, error, link=link), following


UNSAFE = ("unsafe-name", "the name leads out of the tar; nothing is read from it")
_LABELS = (b"g", b"V", b"D")
"""What is said of the whole archive, GNU tar's label of a volume, and its list of a directory."""


def _plain(header: bytes) -> tuple[bytes, int] | None:
    """(name, size) of a regular file's header in the common form; None: let tarfile look."""
    if header[156] not in b"0\0" or header[257:262] != b"ustar" or not _sum_fits(header):
        return None
    try:
        size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    name = header[:100].rstrip(b"\0")
    if header[345] and header[262] == 0:  # the prefix field, in POSIX tars only
        name = header[345:500].rstrip(b"\0") + b"/" + name
    if size < 0 or not name or b"\0" in name or name.endswith(b"/"):
        return None
    return name, size


def _sum_fits(header: bytes) -> bool:
    """Whether a header has the checksum that it states."""
    try:
        checksum = int(header[148:156].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    # The sum of all bytes, the checksum's own taken as spaces. Adler-32's low half is one more
    # than the sum, modulo 65521.
    total = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * 32
    return (total - checksum) % 65521 == 0


def _other(
    stream: IO[bytes], header: bytes, offset: int, end: int
) -> tuple[tarfile.TarInfo, int] | None:
    """The member at `offset`, its long name or pax header resolved, and where the next one is."""
    stream.seek(offset)
    try:
        first = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if first.type in b"xgLK" and not 0 <= first.size <= end:
            return None  # a name longer than the file: memory would be asked for it
        if first.type == tarfile.XGLTYPE:  # tarfile wants a member after it
            return first, offset + BLOCK + -(-first.size // BLOCK) * BLOCK
        tar = tarfile.TarFile(fileobj=stream, mode="r", encoding="utf-8", errors="surrogateescape")
        member = tar.next()
    except (tarfile.TarError, ValueError, OverflowError, EOFError):
        return None
    if member is None or member.size < 0 or tar.offset <= offset:
        return None
    return member, tar.offset


def _target(member: tarfile.TarInfo) -> str:
    """The name of the member that a link stands for: a hard link says it, a symbolic one from
    where it lies."""
    if member.issym():
        return posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))
    return posixpath.normpath(member.linkname) if member.islnk() else ""


def _not_a_file(member: tarfile.TarInfo) -> Error | None:
    if member.issym() or member.islnk():
        kind = "symbolic" if member.issym() else "hard"
        target = key_of_path(member.linkname)
        return ("unreadable", f"a {kind} link to '{target}', which is no image in this tar")
    if member.issparse():
        return ("unreadable", "a sparse file; make the tar again without --sparse")
    return None if member.isreg() else ("unreadable", "not a regular file")
