"""Fetching files so that a broken connection is continued and a wrong byte is refused.

The transport is huggingface_hub's: its snapshots for repositories (which it continues and
compares with the hub's checksums), its `http_get` for single files. A single file arrives as
NAME.part and gets its name when its size and checksum are right. What is fetched is noted in
FOLDER/.download/record.json, so that nothing is fetched or hashed twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from core.atomic import fsync_folder, write_json
from core.errors import UserError
from data.sources.registry import File, Hub, Source

ATTEMPTS = 6  # in a row without a byte between them
PAUSE = 1.0  # seconds before the second attempt; doubled each time
HIDDEN = ".download"  # readers pass over hidden folders
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError)
T = TypeVar("T")


def fetch(source: Source, folder: Path) -> None:
    """Fetch a source completely into a folder, check it, and unpack it if it is packed.

    Raises UserError; what was fetched until then stays, and the next call continues.
    """
    record = Record(folder)
    if source.unpack and record.values["unpacked"]:
        print(f"already there: {folder}")
        return
    # Archives wait in a hidden folder, so that they are no part of the data set.
    inbox = folder / HIDDEN if source.unpack else folder
    inner = Record(inbox) if source.unpack else record
    if source.hub is not None:
        paths = fetch_hub(source.hub, inbox, inner, source.checksums)
    else:
        paths = [fetch_file(file, inbox, inner) for file in source.files]
    if not source.unpack:
        print(f"{len(paths):,} files in {folder}, sizes and checksums as published")
        return
    count = 0
    for path in paths:
        print(f"unpacking {path.name}")
        count += unpack(path, folder)
    record.values["unpacked"] = [path.name for path in paths]
    record.save()
    for path in paths:
        path.unlink()
    print(f"{count:,} files in {folder}")


class Record:
    """What a folder has been given: names of checked files with their size and time of change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HIDDEN / "record.json"
        self.folder = folder
        self.values: dict[str, Any] = {"files": {}, "unpacked": []}
        with contextlib.suppress(OSError, ValueError):
            self.values.update(json.loads(self.path.read_text(encoding="utf-8")))

    def has(self, name: str) -> bool:
        """Whether a file was checked before and has not changed since."""
        entry = self.values["files"].get(name)
        with contextlib.suppress(OSError):
            return entry is not None and entry["state"] == self._state(name)
        return False

    def add(self, name: str) -> None:
        """Note a file that was checked."""
        self.values["files"][name] = {"state": self._state(name)}
        self.save()

    def save(self) -> None:
        """Write the record."""
        write_json(self.path, self.values)

    def _state(self, name: str) -> list[int]:
        status = (self.folder / name).stat()
        return [status.st_size, status.st_mtime_ns]


def verify(path: Path, expected: str | None, size: int | None) -> None:
    """Raise UserError, after deleting the file, when it is not as published.

    Args:
        path: the file.
        expected: 'md5:HEX' or 'sha256:HEX', perhaps only its beginning; None: not published.
        size: bytes; None: not published.
    """
    wrong = []
    if size is not None and path.stat().st_size != size:
        wrong.append(f"{path.stat().st_size:,} bytes, {size:,} are published")
    if expected is not None:
        kind = expected.partition(":")[0]
        with open(path, "rb") as stream:
            found = f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"
        if not found.startswith(expected):
            wrong.append(f"{found}, published is {expected}")
    if wrong:
        _refuse({path: "; ".join(wrong)})


def _refuse(wrong: Mapping[Path, str]) -> None:
    """Delete files that are not as published. Raises UserError, saying why, if there is one."""
    for path in wrong:
        path.unlink()
    if wrong:
        raise UserError(
            "\n".join(f"{path.name}: {why}" for path, why in wrong.items())
            + "\nWhat is wrong was deleted: fetch it again; if it is the same once more, the "
            "publisher has changed it, or something between here and there does"
        )


def fetch_file(file: File, folder: Path, record: Record) -> Path:
    """Fetch one file over HTTP(S), continuing what is there.

    Raises UserError when the server refuses, keeps silent, or sends something else than is
    published.
    """
    target = folder / file.name
    if record.has(file.name):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    if target.exists():
        verify(target, file.checksum, file.bytes)
    else:

        def unfinished() -> int:
            return sum(_size(part) for part in folder.glob(f"{file.name}.*part"))

        way_out = f"what arrived is in {folder}, and the same command continues; has it moved?"
        part = _patiently(lambda: _receive(file, folder), file.url, way_out, unfinished)
        verify(part, file.checksum, file.bytes)
        part.replace(target)
        for left in (*folder.glob(f"{file.name}.*part"), *folder.glob(f"{file.name}.part.etag")):
            left.unlink()  # of another version, or as 0.1 named them
        fsync_folder(folder)
    record.add(file.name)
    return target


def _receive(file: File, folder: Path) -> Path:
    """Fetch what is missing of a file. Its part is named after its version (the ETag), for the
    rest of another version would be of no use."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import get_session

    headers = {"User-Agent": "rs-prune", "Accept-Encoding": "identity"}
    head = get_session().head(file.url, headers=headers, follow_redirects=True, timeout=30)
    # Servers differ in what they answer to this question; whether there is a file, GET decides.
    length = head.headers.get("Content-Length", "") if head.is_success else ""
    total = int(length) if length.isdigit() and int(length) else None
    tag = "" if total is None else head.headers.get("ETag", "")
    version = ""
    if tag.startswith('"'):  # a weak one says nothing about bytes
        version = hashlib.sha256(tag.encode()).hexdigest()[:12] + "."
        headers["If-Range"] = tag
    part = folder / f"{file.name}.{version}part"
    if total is None or _size(part) > total:
        part.unlink(missing_ok=True)
    _check_space(folder, (total or file.bytes or 0) - _size(part))
    with open(part, "ab") as stream:
        http_get(
            file.url,
            stream,
            resume_size=stream.tell(),
            headers=headers,
            expected_size=total,
            displayed_filename=file.name,
        )
    return part


def fetch_hub(hub: Hub, folder: Path, record: Record, checksums: Mapping[str, str]) -> list[Path]:
    """Fetch files of a Hugging Face repository, continuing what is there, and check each.

    The commit is fixed by the first call, so that a download of days is of one version.

    Raises:
        UserError: not reachable, not allowed, or a file is not as published.
    """
    complete = record.values.get("complete") or record.values.get("whole") or []  # as 0.1 wrote
    if complete and all(record.has(name) for name in complete):
        return [folder / name for name in complete]
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    def patiently(action: Callable[[], T]) -> T:
        return _patiently(
            action,
            hub.repo,
            "the same command continues; where there is no network, bring the folder from "
            f"elsewhere: {hub.command}",
        )

    revision = record.values.get("revision") or hub.revision
    info: Any = patiently(
        lambda: HfApi().repo_info(
            hub.repo, repo_type=hub.type, revision=revision, files_metadata=True
        )
    )
    record.values["revision"] = info.sha
    record.save()
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    patterns = list(hub.files) or None
    wanted = list(filter_repo_objects(sizes, allow_patterns=patterns))
    if not wanted:
        raise UserError(f"{hub.repo}: no file named {', '.join(hub.files)} in it; has it changed?")
    _check_space(folder, sum(sizes[n] for n in wanted if _size(folder / n) != sizes[n]))
    where: Any = {"repo_type": hub.type, "revision": info.sha, "local_dir": folder}
    patiently(lambda: snapshot_download(hub.repo, allow_patterns=patterns, **where))
    found = patiently(lambda: HfApi().verify_repo_checksums(hub.repo, **where))
    if lacking := sorted(set(wanted) & set(found.missing_paths)):
        raise UserError(f"{hub.repo}: {lacking[0]} did not arrive; run the same command again")
    _refuse(
        {
            folder / one["path"]: f"{one['algorithm']}:{one['actual']}, published is "
            f"{one['algorithm']}:{one['expected']}"
            for one in found.mismatches
            if one["path"] in wanted
        }
    )
    for name in wanted:
        verify(folder / name, checksums.get(name), None)
        record.add(name)
    record.values["complete"] = wanted
    record.save()
    return [folder / name for name in wanted]


def _patiently(
    action: Callable[[], T], what: str, way_out: str, arrived: Callable[[], int] = lambda: 0
) -> T:
    """Do something over the network, again after a pause when the connection fails.

    Raises UserError when it failed ATTEMPTS times without a byte more in `arrived` between them.
    """
    failures, before = 0, arrived()
    while True:
        try:
            return action()
        except (UserError, TypeError, LookupError, AttributeError):
            raise  # has its message, or is a fault of a program, not of the connection
        except Exception as error:  # the hub's own errors, its transport's, the system's
            status = getattr(getattr(error, "response", None), "status_code", None) or 0
            offline = "offline" in f"{type(error).__name__} {error}".lower()
            refused = 400 <= status < 500 and status not in (408, 429)
            failures = 1 if arrived() > before else failures + 1
            before = arrived()
            if offline or refused or isinstance(error, ValueError) or failures == ATTEMPTS:
                times = f" ({ATTEMPTS} times in a row)" if failures == ATTEMPTS else ""
                why = " ".join(str(error).split())[:300]
                raise UserError(
                    f"{what}: {type(error).__name__}: {why}{times}; {way_out}"
                ) from None
        time.sleep(PAUSE * 2 ** (failures - 1))


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar into a folder; links are left out. Returns the number of files.

    Raises UserError for another kind of archive, a damaged one, one that does not fit on the
    disk, or a member that leads out of the folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as pack:
                infos = [i for i in pack.infolist() if not stat.S_ISLNK(i.external_attr >> 16)]
                for info in infos:  # as Windows writes them
                    info.filename = info.filename.replace("\\", "/")
                files = {i.filename: i.file_size for i in infos if not i.is_dir()}
                _check_members(files, archive, folder)
                pack.extractall(folder, infos)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                members = [m.replace(name=m.name.replace("\\", "/")) for m in tar if m.isfile()]
                files = {m.name: m.size for m in members}
                _check_members(files, archive, folder)
                tar.extractall(folder, members, filter="data")
        else:
            raise UserError(f"{archive}: neither zip nor tar; unpack it by hand (unar, 7z)")
    except _DAMAGE as error:
        raise UserError(f"{archive}: cannot be unpacked ({error})") from None
    return len(files)


def _check_members(files: Mapping[str, int], archive: Path, folder: Path) -> None:
    """Refuse what the libraries would put elsewhere under another name without a word."""
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or parts[0].endswith(":"):
            raise UserError(f"{archive}: its member '{name}' leads out of the folder; not unpacked")
    _check_space(folder, sum(files.values()))


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
            f"{os.fspath(folder)}: {needed / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free; "
            "give --out on a larger disk"
        )
