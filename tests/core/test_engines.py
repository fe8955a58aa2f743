"""Other engines, same files: a Ray cluster that loses a node, and two processes of a launch."""

from __future__ import annotations

import importlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dit.encode
from core.engines import ProcessGroup
from core.errors import UserError
from core.stage import DoneElsewhere, Stage, read_manifest
from prune import embed, score, select
from prune.encoders import embed as embedding
from tests.dit.tiny_vae import save_tiny_vae

ROOT = Path(__file__).resolve().parents[2]
SHARDS, EACH, SIZE = 24, 12, 16
PART = 20  # embeddings in a part, instead of 4,096


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of tars, a reference set, a VAE, and everything made of them by the local engine."""
    root = tmp_path_factory.mktemp("engines")
    rng = np.random.default_rng(0)
    (root / "tars").mkdir()
    for shard in range(SHARDS):
        with tarfile.open(root / "tars" / f"part-{shard:02d}.tar", "w") as tar:
            for row in range(EACH):
                data = io.BytesIO()
                pixels = rng.integers(0, 256, (SIZE + row, SIZE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(data, "PNG")
                blob = data.getvalue() if row != 5 else data.getvalue()[:60]  # one cut short
                info = tarfile.TarInfo(f"{row:02d}.png")
                info.size = len(blob)
                tar.addfile(info, io.BytesIO(blob))
    save_tiny_vae(root / "vae", scaling_factor=0.5)
    for command, out in (("score", "scores"), ("embed", "embeddings")):
        run(root, command, root / out)
    index = ["--out", str(root / "subset.parquet"), "--ratio", "0.5"]
    assert select.main(["--method", "random", "--scores", str(root / "scores"), *index]) == 0
    run(root, "encode", root / "latents")
    return root


COMMANDS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "score": ("prune.score", lambda root: {"workers": 1}),
    "embed": (
        "prune.embed",
        lambda root: {"scores": root / "scores", "keep": 1, "workers": 1, "batch": 8},
    ),
    "encode": (
        "dit.encode",
        lambda root: {"subset": root / "subset.parquet", "vae": root / "vae", "image-size": SIZE,
                      "shard-rows": 10, "batch": 4, "workers": 1, "device": "cpu"},
    ),
}  # fmt: skip


def flags(root: Path, command: str, out: Path, *more: str) -> list[str]:
    settings = {"corpus": f"{root}/tars/*.tar", "out": out, **COMMANDS[command][1](root)}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))] + [
        *more
    ]


def run(root: Path, command: str, out: Path, *more: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "PART", PART)
        main = {"score": score.main, "embed": embed.main, "encode": dit.encode.main}[command]
        assert main(flags(root, command, out, *more)) == 0


def parts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if "manifest" not in p.name
            and not p.name.startswith(".")}  # fmt: skip


def assert_same(out: Path, expected: Path) -> None:
    assert parts(out) == parts(expected)
    assert len(parts(out)) > 10
    assert read_manifest(out)["fingerprint"] == read_manifest(expected)["fingerprint"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    head = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.second = nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def test_a_cluster_that_loses_a_node_writes_the_same_files(
    made: Path, cluster: Any, tmp_path: Path
) -> None:
    """The node goes after the first part of the scores; the other two stages do without it."""
    there: list[int] = []

    def remove() -> None:
        while not (there and there[0]):
            there[:] = [len(list((tmp_path / "scores").glob("part-*.parquet")))]
            time.sleep(0.01)
        cluster.remove_node(cluster.second)

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    ray = ("--engine", "ray", "--ray-address", cluster.address)
    run(made, "score", tmp_path / "scores", *ray)
    thread.join()
    assert 0 < there[0] < SHARDS  # it was in the middle
    assert_same(tmp_path / "scores", made / "scores")
    for command, out in (("embed", "embeddings"), ("encode", "latents")):
        run(made, command, tmp_path / out, *ray)
        assert_same(tmp_path / out, made / out)


def test_what_a_worker_refuses_is_said_here(made: Path, cluster: Any, tmp_path: Path) -> None:
    ray = ("--engine", "ray", "--ray-address", cluster.address)
    tar = made / "tars" / "part-03.tar"
    before = tar.read_bytes()
    tar.write_bytes(before.replace(b"IDAT", b"IDAX"))
    try:
        with pytest.raises(UserError, match=r"part-03.*score this one again"):
            run(made, "embed", tmp_path / "embeddings", *ray)
    finally:
        tar.write_bytes(before)
    run(made, "embed", tmp_path / "embeddings", *ray)  # put back: the same command continues
    assert_same(tmp_path / "embeddings", made / "embeddings")


def test_without_ray_or_a_cluster_the_way_out_is_said(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'ray\[data\]'"):
        run(made, "score", tmp_path / "scores", "--engine", "ray")


@pytest.mark.parametrize(("command", "out"), [("embed", "embeddings"), ("encode", "latents")])
def test_two_processes_write_the_same_files(
    made: Path, tmp_path: Path, command: str, out: str
) -> None:
    module = COMMANDS[command][0]
    script = tmp_path / "run.py"
    script.write_text(
        f"from {module} import main\n"
        "import prune.encoders.embed\n"
        f"prune.encoders.embed.PART = {PART}\n"
        "from core.command import execute\n"
        "execute(main)\n"
    )
    words = [sys.executable, str(script), *flags(made, command, tmp_path / out)]
    for _ in range(2):  # the second time there is nothing to do
        outputs = launch(words)
        assert sum(output.count(f"[{module}]") for output in outputs) == 1  # one of the two speaks
        assert_same(tmp_path / out, made / out)
    spent, alone = (read_manifest(at / out)["made"]["cost"] for at in (tmp_path, made))
    assert spent["images"] == alone["images"] > 0  # of both processes
    assert spent["sessions"] == 1


def launch(words: list[str]) -> list[str]:
    """Standard output of two processes, started as torchrun and accelerate launch start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    outputs = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return [output for output, _ in outputs]


def _open(group: ProcessGroup, met: list[int], out: Path) -> None:
    stage = Stage(out, "x", {}, {})
    if group.main:
        stage.open = lambda: (_ for _ in ()).throw(DoneElsewhere)  # type: ignore[method-assign]
    with pytest.raises(DoneElsewhere):
        group.open(stage)
    met.append(group.rank)


def test_a_launch_that_finds_its_stage_done_elsewhere_ends_in_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Stage(tmp_path, "x", {}, {})
    done.open()
    done.finish({}, [], "")
    barrier = threading.Barrier(2)
    monkeypatch.setattr(ProcessGroup, "wait", lambda self: barrier.wait(20))
    met: list[int] = []
    ranks = [
        threading.Thread(target=_open, args=(ProcessGroup(rank, 2), met, tmp_path))
        for rank in (0, 1)
    ]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(30)
    assert sorted(met) == [0, 1]
