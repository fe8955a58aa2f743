"""Fetching files so that a cut line is continued and a wrong byte is refused.

A file arrives as NAME.part and gets its name when its size and checksum are right. What is fetched
is noted in FOLDER/.download/record.json, so that nothing is fetched or hashed twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from core.atomic import fsync_folder, write_json
from core.errors import UserError
from data.sources.registry import File, Hub

ATTEMPTS = 6  # in a row without a byte between them
PAUSE = 1.0  # seconds before the second attempt; doubled each time
TIMEOUT = 30.0  # seconds of silence that count as a cut line
CHUNK = 1 << 20
T = TypeVar("T")
HIDDEN = ".download"  # readers pass over hidden folders


class Record:
    """What a folder has been given: name -> size, time of change and digest."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HIDDEN / "record.json"
        self.folder = folder
        self.values: dict[str, Any] = {"files": {}, "unpacked": {}}
        with contextlib.suppress(OSError, ValueError):
            self.values.update(json.loads(self.path.read_text(encoding="utf-8")))

    def has(self, name: str) -> bool:
        """Whether a file was checked before and has not changed since."""
        entry = self.values["files"].get(name)
        try:
            status = (self.folder / name).stat()
        except OSError:
            return False
        return entry is not None and entry["state"] == [status.st_size, status.st_mtime_ns]

    def add(self, name: str, checksum: str) -> None:
        """Note a file that was checked."""
        status = (self.folder / name).stat()
        entry = {"state": [status.st_size, status.st_mtime_ns], "checksum": checksum}
        self.values["files"][name] = entry
        self.save()

    def save(self) -> None:
        """Write the record."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.values)


def checksum_of(path: Path, kind: str) -> str:
    """'md5:HEX' or 'sha256:HEX' of a file."""
    with open(path, "rb") as stream:
        return f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"


def verify(path: Path, expected: str | None, size: int | None) -> str:
    """The checksum of a file that is as published; UserError, after deleting it, when it is not.

    Args:
        path: the file.
        expected: 'md5:HEX' or 'sha256:HEX', perhaps only its beginning; None: not published.
        size: bytes; None: not published.
    """
    there = path.stat().st_size
    found = checksum_of(path, expected.partition(":")[0] if expected else "sha256")
    wrong = []
    if size is not None and there != size:
        wrong.append(f"{there:,} bytes, {size:,} are published")
    if expected is not None and not found.startswith(expected):
        wrong.append(f"{found}, published is {expected}")
    if wrong:
        path.unlink()
        raise UserError(
            f"{path.name}: {'; '.join(wrong)}. The file was deleted: fetch it again; if it is the "
            "same once more, the publisher has changed it, or something between here and there does"
        )
    return found


Show = Callable[[int, int | None], object]


def fetch_file(file: File, folder: Path, record: Record, show: Show | None = None) -> Path:
    """Fetch one file over HTTP(S), continuing what is there.

    Args:
        file: what and from where.
        folder: where it goes.
        record: of the folder.
        show: called with bytes so far and bytes in all (None: not known).

    Raises:
        UserError: the server refuses, keeps silent, or sends something else than is published.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if record.has(file.name):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    if target.exists():
        record.add(file.name, verify(target, file.checksum, file.bytes))
        return target
    tag = part.with_name(f"{part.name}.etag")
    failures, pause = 0, PAUSE
    while True:
        before = _size(part)
        try:
            if _receive(file, part, tag, show):
                break
            problem = "the connection was cut"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(
                    f"{file.url}: the server says {error.code} {error.reason}; has it moved?"
                ) from None
            problem = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        if _size(part) > before:
            failures, pause = 0, PAUSE
        failures += 1
        if failures >= ATTEMPTS:
            raise UserError(
                f"{file.url}: {problem}, {ATTEMPTS} times in a row; {_size(part):,} bytes are in "
                f"{part}, and the same command continues from there"
            )
        time.sleep(pause)
        pause *= 2
    found = verify(part, file.checksum, file.bytes)
    part.replace(target)
    tag.unlink(missing_ok=True)
    fsync_folder(folder)
    record.add(file.name, found)
    return target


def _receive(file: File, part: Path, tag: Path, show: Show | None) -> bool:
    """One request. True when the file is whole, False when the line was cut."""
    start = _size(part)
    request = urllib.request.Request(file.url, headers={"User-Agent": "rs-prune"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        with contextlib.suppress(OSError):  # the rest of another version would be of no use
            request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total == str(start):
            return True
        part.unlink()  # longer than the file: not of this version
        return False
    with answer:
        if answer.status != 206:
            start = 0
        length = answer.headers.get("Content-Length")
        total_bytes = None if length is None else start + int(length)
        _check_space(part.parent, (total_bytes or file.bytes or 0) - start)
        if answer.headers.get("ETag", "").startswith('"'):  # a weak one cannot be continued
            tag.write_text(answer.headers["ETag"], encoding="utf-8")
        with open(part, "r+b" if start else "wb") as stream:
            stream.seek(start)
            stream.truncate()
            done = start
            try:
                while data := answer.read(CHUNK):
                    stream.write(data)
                    done += len(data)
                    if show is not None:
                        show(done, total_bytes)
            except http.client.IncompleteRead as cut:
                stream.write(cut.partial)
                return False
    return total_bytes is None or done == total_bytes


def fetch_hub(hub: Hub, folder: Path, record: Record, checksums: dict[str, str]) -> list[Path]:
    """Fetch files of a Hugging Face repository, continuing what is there, and check each.

    The commit is fixed by the first call, so that a download of days is of one version. Files kept
    in large-file storage are compared with the SHA-256 that the hub states for them.

    Raises:
        UserError: not reachable, not allowed, or a file is not as published.
    """
    whole = record.values.get("whole", [])
    if whole and all(record.has(name) for name in whole):
        return [folder / name for name in whole]
    from huggingface_hub import HfApi, snapshot_download

    revision = record.values.get("revision") or hub.revision
    info: Any = _patiently(
        hub,
        lambda: HfApi().repo_info(
            hub.repo, repo_type=hub.type, revision=revision, files_metadata=True
        ),
    )
    record.values["revision"] = info.sha
    record.save()
    wanted = [s for s in info.siblings or [] if _wanted(s.rfilename, hub.files)]
    if not wanted:
        raise UserError(f"{hub.repo}: no file named {', '.join(hub.files)} in it; has it changed?")
    left = sum(s.size or 0 for s in wanted if _size(folder / s.rfilename) != s.size)
    _check_space(folder, left)
    _patiently(
        hub,
        lambda: snapshot_download(
            hub.repo,
            repo_type=hub.type,
            revision=info.sha,
            allow_patterns=list(hub.files) or None,
            local_dir=folder,
        ),
    )
    for sibling in wanted:
        name = sibling.rfilename
        if record.has(name):
            continue
        if not (folder / name).is_file():
            raise UserError(f"{hub.repo}: {name} did not arrive; run the same command again")
        lfs = getattr(sibling, "lfs", None)
        found = verify(folder / name, f"sha256:{lfs.sha256}" if lfs else None, sibling.size)
        if name in checksums:
            found = verify(folder / name, checksums[name], None)
        record.add(name, found)
    record.values["whole"] = [sibling.rfilename for sibling in wanted]
    record.save()
    return [folder / name for name in record.values["whole"]]


def _patiently(hub: Hub, action: Callable[[], T]) -> T:
    """Do something with the hub, again after a pause when the line fails."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except Exception as error:  # its own errors, httpx's, the system's
            status = getattr(getattr(error, "response", None), "status_code", None)
            offline = "offline" in f"{type(error).__name__} {error}".lower()
            hopeless = offline or status in (401, 403, 404) or isinstance(error, ValueError)
            if isinstance(error, TypeError | LookupError | AttributeError):
                raise  # a fault of a program, not of the line
            if attempt == ATTEMPTS - 1 or hopeless:
                why = " ".join(str(error).split())[:300]
                raise UserError(
                    f"{hub.repo}: {type(error).__name__}: {why}. The same command continues; where "
                    f"there is no network, bring the folder from elsewhere: {hub.command}"
                ) from None
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError


def _wanted(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch(name, pattern) for pattern in patterns)


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar; files that are there whole are left alone. Returns their number.

    Raises UserError for another kind of archive, a damaged one, or a member that leads out.
    """
    try:
        with _open_archive(archive) as members:
            count = 0
            for name, size, opened in members:
                target = folder / _safe(name, archive)
                count += 1
                if _size(target) == size and target.is_file():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f"{target.name}.part")
                with opened() as source, open(part, "wb") as stream:
                    shutil.copyfileobj(source, stream, CHUNK)
                part.replace(target)
            return count
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error})") from None


Member = tuple[str, int, Callable[[], IO[bytes]]]


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[Iterator[Member]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as pack:
            infos = [
                info for info in pack.infolist()
                if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
            ]  # fmt: skip
            yield ((i.filename, i.file_size, lambda i=i: pack.open(i)) for i in infos)  # type: ignore[misc]
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            yield (
                (m.name, m.size, lambda m=m: tar.extractfile(m)) for m in tar if m.isfile()  # type: ignore[misc]
            )
    else:
        raise UserError(f"{path}: neither zip nor tar; unpack it by hand (unar, 7z)")


def _safe(name: str, archive: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or parts[0].endswith(":"):
        raise UserError(f"{archive}: its member '{name}' leads out of the folder; not unpacked")
    return Path(*parts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _check_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{os.fspath(folder)}: {needed / 1e9:,.1f} GB to fetch, {free / 1e9:,.1f} GB free; "
            "give --out on a larger disk"
        )
