"""Downloads against a server of our own and a hub of our own: cut, continued, refused."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import data.download as command
import data.setup.download as download
import data.sources.fetch as fetch
from core.errors import UserError
from data.sources.fetch import Record, fetch_file, unpack, verify
from data.sources.registry import File, Source, find_source, read_sources, sources

CONTENT = bytes(range(256)) * 4000  # 1 MB
UNIT = 100_000  # bytes that arrive before any is written; the library's own unit is 10 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; cuts the line after each of `cuts` bytes; counts what it sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/a.bin": CONTENT}
        self.cuts: list[int] = []
        self.failures: list[int] = []
        self.ranges = True
        self.head = 200  # what HEAD is answered; 0: found, of no length
        self.tag = '"one"'
        self.requests: list[tuple[str | None, int]] = []  # range asked for, bytes sent

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away

    def url(self, name: str = "/a.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        if server.head > 200:
            return self.send_error(server.head)
        if server.failures:
            return self.send_error(server.failures.pop(0))
        if self.path not in server.files:
            return self.send_error(404)
        self.send_response(200)
        length = len(server.files[self.path]) if server.head else 0
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", server.tag)
        self.end_headers()

    def do_GET(self) -> None:
        server: Server = self.server  # type: ignore[assignment]
        if server.failures:
            return self.send_error(server.failures.pop(0))
        if self.path not in server.files:
            return self.send_error(404)
        data = server.files[self.path]
        wanted = self.headers.get("Range")
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", server.tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        stop = start + server.cuts.pop(0) if server.cuts else len(data)
        sent = data[start:stop]
        self.wfile.write(sent)
        server.requests.append((wanted, len(sent)))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", UNIT)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield one
        one.shutdown()


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class TestFile:
    def test_a_cut_line_is_continued(self, server, tmp_path):
        server.cuts = [300_000, 200_000]
        file = File(server.url(), "a.bin", len(CONTENT), sha(CONTENT))
        path = fetch_file(file, tmp_path, Record(tmp_path))
        assert path.read_bytes() == CONTENT
        assert [asked for asked, _ in server.requests] == [None, "bytes=300000-", "bytes=500000-"]
        assert sum(sent for _, sent in server.requests) == len(CONTENT)  # no byte twice
        assert sorted(p.name for p in tmp_path.iterdir()) == [".download", "a.bin"]
        assert fetch_file(file, tmp_path, Record(tmp_path)) == path
        assert len(server.requests) == 3  # nothing is asked for again

    def test_another_process_continues(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(fetch, "ATTEMPTS", 1)
        server.cuts = [400_000, *[0] * 6]
        file = File(server.url(), "a.bin", None, None)
        with pytest.raises(UserError, match=r"what arrived is in .*the same command continues"):
            fetch_file(file, tmp_path, Record(tmp_path))
        assert not (tmp_path / "a.bin").exists()
        assert fetch_file(file, tmp_path, Record(tmp_path)).read_bytes() == CONTENT
        assert server.requests[-1] == ("bytes=400000-", len(CONTENT) - 400_000)

    def test_a_file_that_changed_meanwhile_starts_over(self, server, tmp_path, monkeypatch):
        server.cuts = [400_000]
        other = CONTENT[::-1]
        served = Handler.do_GET

        def change(handler):
            served(handler)
            server.files["/a.bin"], server.tag = other, '"two"'

        monkeypatch.setattr(Handler, "do_GET", change)
        path = fetch_file(File(server.url(), "a.bin"), tmp_path, Record(tmp_path))
        assert path.read_bytes() == other

    def test_a_server_without_ranges(self, server, tmp_path):
        server.cuts, server.ranges = [400_000], False
        path = fetch_file(File(server.url(), "a.bin"), tmp_path, Record(tmp_path))
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize("answer", [405, 501, 403, 500, 0])
    def test_a_server_that_says_nothing_of_its_file(self, server, tmp_path, answer):
        server.cuts, server.head = [400_000], answer
        path = fetch_file(File(server.url(), "a.bin"), tmp_path, Record(tmp_path))
        assert path.read_bytes() == CONTENT

    def test_nothing_is_left_of_another_version_nor_of_version_0_1(self, server, tmp_path):
        for name in ("a.bin.0123456789ab.part", "a.bin.part", "a.bin.part.etag", "b.bin.part"):
            (tmp_path / name).write_bytes(b"x")
        fetch_file(File(server.url(), "a.bin"), tmp_path, Record(tmp_path))
        assert sorted(p.name for p in tmp_path.glob("*.bin*")) == ["a.bin", "b.bin.part"]

    def test_what_is_left_of_the_last_byte_is_nothing(self, server, tmp_path):
        server.tag = 'W/"weak"'
        file = File(server.url(), "a.bin", None, sha(CONTENT))
        (tmp_path / "a.bin.part").write_bytes(CONTENT)
        assert fetch_file(file, tmp_path, Record(tmp_path)).read_bytes() == CONTENT
        assert not server.requests
        file = File(server.url(), "b.bin", None, sha(CONTENT))
        (tmp_path / "b.bin.part").write_bytes(CONTENT + b"more")
        assert fetch_file(file, tmp_path, Record(tmp_path)).read_bytes() == CONTENT

    @pytest.mark.parametrize(
        "size,checksum,message",
        [
            (None, "md5:" + "0" * 32, "published is md5:000"),
            (None, "sha256:7be5be79", "published is sha256:7be5"),
            (5, None, r"1,024,000 bytes, 5 are published"),
        ],
    )
    def test_a_wrong_byte_is_refused(self, server, tmp_path, size, checksum, message):
        with pytest.raises(UserError, match=message):
            fetch_file(File(server.url(), "a.bin", size, checksum), tmp_path, Record(tmp_path))
        assert not list(tmp_path.glob("a.bin*part")) and not (tmp_path / "a.bin").exists()

    def test_the_beginning_of_a_checksum_is_enough(self, tmp_path):
        (tmp_path / "x").write_bytes(b"x")
        verify(tmp_path / "x", sha(b"x")[:15], 1)
        with pytest.raises(UserError, match="published is sha256:0"):
            verify(tmp_path / "x", "sha256:0", 1)
        assert not (tmp_path / "x").exists()

    def test_refusals_and_passing_faults(self, server, tmp_path):
        with pytest.raises(UserError, match=r"404 Not Found.*has it moved"):
            fetch_file(File(server.url("/b"), "b"), tmp_path, Record(tmp_path))
        server.failures = [503, 429]
        file = File(server.url(), "a.bin")
        assert fetch_file(file, tmp_path, Record(tmp_path)).read_bytes() == CONTENT
        server.failures = [503] * 2 * fetch.ATTEMPTS  # of HEAD and of GET
        with pytest.raises(UserError, match=f"503 .*{fetch.ATTEMPTS} times in a row"):
            fetch_file(File(server.url(), "c"), tmp_path, Record(tmp_path))

    def test_a_full_disk_is_said_before(self, server, tmp_path, monkeypatch):
        usage = types.SimpleNamespace(free=10)
        monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UserError, match="free; give --out on a larger disk"):
            fetch_file(File(server.url(), "a.bin"), tmp_path, Record(tmp_path))


class TestHub:
    def test_offline_says_the_step_by_hand(self, tmp_path):
        code = (
            "import sys; from pathlib import Path; from data.download import main\n"
            "from core.command import execute\n"
            "execute(lambda: main(['sd-vae', '--out', sys.argv[1]]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "vae")], text=True, capture_output=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False,
        )  # fmt: skip
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "hf download stabilityai/sd-vae-ft-ema --local-dir FOLDER" in done.stderr


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as pack:
        for name, data in members.items():
            pack.writestr(name, data)
    return stream.getvalue()


class TestUnpack:
    def test_zip_and_tar(self, tmp_path):
        (tmp_path / "a.zip").write_bytes(zipped({"x/1.tif": b"one", "x/2.tif": b"two"}))
        assert unpack(tmp_path / "a.zip", tmp_path / "z") == 2
        assert (tmp_path / "z/x/2.tif").read_bytes() == b"two"
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
            tar.add(tmp_path / "z/x/1.tif", "y/1.tif")
            link = tarfile.TarInfo("y/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        assert unpack(tmp_path / "a.tar.gz", tmp_path / "t") == 1
        assert [p.name for p in (tmp_path / "t/y").iterdir()] == ["1.tif"]

    def test_a_name_as_windows_writes_it_is_a_path(self, tmp_path):
        (tmp_path / "a.zip").write_bytes(zipped({"x\\y\\1.tif": b"one"}))
        assert unpack(tmp_path / "a.zip", tmp_path / "z") == 1
        assert (tmp_path / "z/x/y/1.tif").read_bytes() == b"one"

    def test_what_does_not_fit_on_the_disk_is_not_begun(self, tmp_path, monkeypatch):
        usage = types.SimpleNamespace(free=10)
        monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage)
        (tmp_path / "a.zip").write_bytes(zipped({"1.tif": b"0" * 11}))
        with pytest.raises(UserError, match="GB free"):
            unpack(tmp_path / "a.zip", tmp_path / "z")
        assert not list((tmp_path / "z").iterdir())

    @pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..\\x"])
    def test_what_leads_out_is_refused(self, tmp_path, name):
        (tmp_path / "a.zip").write_bytes(zipped({name: b"x"}))
        with pytest.raises(UserError, match="leads out"):
            unpack(tmp_path / "a.zip", tmp_path / "in" / "z")
        assert not list((tmp_path / "in").rglob("x"))

    def test_damaged_and_unknown(self, tmp_path):
        data = zipped({"x": os.urandom(1000)})
        (tmp_path / "a.zip").write_bytes(data.replace(data[100:110], b"0123456789"))
        with pytest.raises(UserError, match="cannot be unpacked"):
            unpack(tmp_path / "a.zip", tmp_path)
        (tmp_path / "a.rar").write_bytes(b"Rar!")
        with pytest.raises(UserError, match="neither zip nor tar"):
            unpack(tmp_path / "a.rar", tmp_path)


class TestCommand:
    def test_an_archive_becomes_a_folder_once(self, server, tmp_path, monkeypatch, capsys):
        pack = zipped({"Images/a/1.tif": b"1", "Images/b/1.tif": b"2"})
        server.files["/s.zip"], server.cuts = pack, [50]
        file = File(server.url("/s.zip"), "s.zip", len(pack), sha(pack))
        source = Source(
            "ucm", "S", "reference", "--reference FOLDER", (), "1 kB", "MIT", variable="S_ROOT",
            files=(file,), unpack=True,
        )  # fmt: skip
        monkeypatch.setattr(download, "find_source", lambda name: source)
        out = tmp_path / "s"
        assert command.main(["s", "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        assert f"export S_ROOT={out}" in printed and "--reference" in printed
        assert "2 images of 2 classes" in printed and "ucm: 2 images, 2,100" in printed
        assert sorted(p.name for p in out.iterdir()) == [".download", "Images"]
        assert not list(out.rglob("*.zip"))
        sent = len(server.requests)
        assert command.main(["s", "--out", str(out)]) == 0
        assert "already there" in capsys.readouterr().out and len(server.requests) == sent

    def test_without_a_name_all_are_listed(self, capsys):
        assert command.main([]) == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in sources())

    def test_by_hand(self, capsys, tmp_path):
        assert command.main(["rsd46", "--out", str(tmp_path)]) == 1
        assert "By hand: Follow" in capsys.readouterr().out
        with pytest.raises(UserError, match="no such data set or weight; there are git10m"):
            command.main(["imagenet"])

    def test_default_folders(self, monkeypatch):
        monkeypatch.setenv("UCM_ROOT", "/data/UCM")
        assert find_source("ucm").folder == Path("/data/UCM")
        monkeypatch.delenv("UCM_ROOT")
        assert find_source("ucm").folder == Path("downloads/ucm")
        monkeypatch.setenv("TORCH_HOME", "/t")
        assert find_source("lpips").folder == Path("/t/hub/checkpoints")


class TestSources:
    def test_every_entry_says_how_it_comes(self):
        for source in sources().values():
            assert source.fetchable or source.by_hand, source.name
            assert source.published and source.licence and source.size, source.name
            for file in source.files:
                assert file.url.startswith("https://") and "/" not in file.name
            for checksum in source.checksums.values():
                assert len(checksum) in (len("md5:") + 32, len("sha256:") + 64)
        variables = [s.variable for s in sources().values() if s.variable]
        assert len(variables) == len(set(variables))

    def test_table_4_adds_up(self):
        sizes = {n: find_source(n).images for n in ("ucm", "nwpu", "aid", "whurs19")}
        assert sum(sizes.values()) + find_source("rsd46").sample == 55_605
        assert sizes["ucm"] + sizes["nwpu"] + sizes["aid"] == 43_600

    @pytest.mark.parametrize(
        "text,message",
        [
            ("x: {title: X}", "x: .*missing.*'kind'"),
            ("x: {title: X, kind: a, read_by: r, published: [], size: s, licence: l}", "kind a"),
            ("x: {titel: X}", "x: .*unexpected keyword argument 'titel'"),
        ],
    )
    def test_a_wrong_list(self, tmp_path, text, message):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            read_sources(tmp_path / "s.yaml")
