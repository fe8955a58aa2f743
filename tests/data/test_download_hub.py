"""The real huggingface_hub against a hub of our own: what it asks, a cut line, wrong bytes."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMIT = "c" * 40
WEIGHTS = bytes(range(256)) * 100_000  # 25 MB: the hub library writes ten at a time
FILES = {"config.json": b'{"a": 1}', "diffusion_pytorch_model.safetensors": WEIGHTS, "x.md": b"x"}
REPO = "stabilityai/sd-vae-ft-ema"


def blob(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    """One repository, as huggingface.co answers for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.served = dict(FILES)
        self.cut: int | None = None
        self.gets: list[tuple[str, str | None]] = []
        self.asked: list[str] = []  # paths of the hub's own questions
        self.refused = 0

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api"):
            self.server.asked.append(path)
        if self.server.refused:
            return self.send(b"", {"X-Error-Code": "GatedRepo"}, self.server.refused)
        if "/tree/" in path:
            tree = [{"type": "file", "path": s["rfilename"], "oid": s["blobId"], "size": s["size"],
                     **({"lfs": {"oid": s["lfs"]["sha256"], "size": s["size"], "pointerSize": 134}}
                        if "lfs" in s else {})} for s in self.info()["siblings"]]  # fmt: skip
            return self.send(json.dumps(tree).encode(), {"Content-Type": "application/json"})
        if path.startswith(f"/api/models/{REPO}"):
            return self.send(json.dumps(self.info()).encode(), {"Content-Type": "application/json"})
        name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
        if name not in self.server.served:
            return self.send(b"", {"X-Error-Code": "EntryNotFound"}, 404)
        etag = hashlib.sha256(FILES[name]).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if body:
            self.server.gets.append((name, self.headers.get("Range")))
        self.send(self.server.served[name], headers, body=body)

    def info(self) -> dict:
        siblings = [
            {
                "rfilename": name, "size": len(data), "blobId": blob(data),
                **({"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data),
                            "pointerSize": 134}} if len(data) > 1000 else {}),
            }
            for name, data in FILES.items()
        ]  # fmt: skip
        return {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings, "tags": [],
                "private": False, "downloads": 0, "likes": 0}  # fmt: skip

    def send(self, data: bytes, headers: dict, status: int = 200, body: bool = True) -> None:
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        part = data[start:]
        self.send_response(206 if start and status == 200 else status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command == "GET":
            if self.server.cut is not None and len(part) > self.server.cut:
                self.wfile.write(part[: self.server.cut])
                self.server.cut, self.close_connection = None, True
            else:
                self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as one:
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        yield one
        one.shutdown()


def download(hub: Hub, out: Path, name: str = "sd-vae") -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "data.download", name, "--out", str(out)],
        text=True, capture_output=True, cwd=ROOT, check=False,
        env={**kept, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
             "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(out.parent / "home"),
             "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip


def test_a_repository_arrives_whole_and_only_what_is_wanted(hub, tmp_path):
    hub.cut = 15_000_000
    out = tmp_path / "vae"
    done = download(hub, out)
    assert done.returncode == 0, done.stderr
    assert (out / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS
    assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == [
        "config.json", "diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert f"export SD_VAE={out}" in done.stdout
    ranges = [asked for name, asked in hub.gets if name.endswith(".safetensors")]
    assert len(ranges) == 2 and ranges[1] is not None  # the rest alone was asked for again
    asked = len(hub.gets)
    assert download(hub, out).returncode == 0 and len(hub.gets) == asked
    # As version 0.1 recorded it: nothing is asked, nor hashed again.
    record = out / ".download" / "record.json"
    record.write_text(record.read_text().replace('"complete"', '"whole"'))
    before = len(hub.asked)
    assert download(hub, out).returncode == 0 and len(hub.asked) == before


def test_wrong_bytes_of_the_right_length_are_refused(hub, tmp_path):
    name = "diffusion_pytorch_model.safetensors"
    hub.served[name] = b"x" + WEIGHTS[1:]
    done = download(hub, tmp_path / "vae")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{name}: sha256:" in done.stderr and "published is" in done.stderr
    assert not (tmp_path / "vae" / name).exists()
    hub.served[name] = WEIGHTS
    assert download(hub, tmp_path / "vae").returncode == 0
    assert (tmp_path / "vae" / name).read_bytes() == WEIGHTS


def test_a_small_file_is_checked_as_well(hub, tmp_path):
    hub.served["config.json"] = b'{"b": 1}'
    done = download(hub, tmp_path / "vae")
    assert done.returncode == 2 and "config.json: git-sha1:" in done.stderr
    assert not (tmp_path / "vae" / "config.json").exists()


def test_the_commit_of_the_first_call_stays(hub, tmp_path):
    out = tmp_path / "vae"
    assert download(hub, out).returncode == 0
    assert hub.asked[0] == f"/api/models/{REPO}"
    (out / "config.json").unlink()
    before = len(hub.asked)
    assert download(hub, out).returncode == 0 and (out / "config.json").exists()
    assert hub.asked[before] == f"/api/models/{REPO}/revision/{COMMIT}"


def test_what_the_hub_refuses_is_said_with_the_step_by_hand(hub, tmp_path):
    hub.refused = 403
    done = download(hub, tmp_path / "vae")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"hf download {REPO} --local-dir FOLDER" in done.stderr
    assert len(hub.asked) == 1  # not tried again
    hub.refused, files = 0, dict(FILES)
    FILES.clear()
    try:
        done = download(hub, tmp_path / "vae")
    finally:
        FILES.update(files)
    assert done.returncode == 2 and "no file named config.json" in done.stderr
