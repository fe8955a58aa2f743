"""Stages: done, resume, refusal of other parameters, locks, damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from core.atomic import atomic_path, remove_stale
from core.errors import UserError
from core.stage import DoneElsewhere, Stage, fingerprint, read_manifest, run_stage


def make(out: Path, *, seed: int = 0, source: str = "a", content: str = "x", **options) -> Stage:
    stage = Stage(out, "test.stage", {"seed": seed}, {"source": source}, **options)
    if not stage.done():
        stage.open()
        (out / "part.txt").write_text(content)
        stage.finish({"rows": 1}, ["part.txt"], "1 row")
    return stage


def test_done_only_after_finish_and_then_nothing_is_redone(tmp_path: Path, capsys) -> None:
    stage = Stage(tmp_path / "out", "test.stage", {"seed": 0}, {})
    assert not stage.done()
    stage.open()
    assert not stage.done()
    (tmp_path / "out" / "part.txt").write_text("x")
    stage.finish({}, ["part.txt"], "1 row")
    assert Stage(tmp_path / "out", "test.stage", {"seed": 0}, {}).done()
    assert "nothing left to do" in capsys.readouterr().out


@pytest.mark.parametrize("finished", [True, False])
def test_other_parameters_are_refused_by_name(tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "out"
    if finished:
        make(out)
    else:  # a run that was killed after it began
        begun = Stage(out, "test.stage", {"seed": 0}, {"source": "a"})
        begun.open()
        (out / "part-00000").touch()
        begun.close()
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        Stage(out, "test.stage", {"seed": 1}, {"source": "a"}).done()
    with pytest.raises(UserError, match='source: "a" there, "b" now'):
        Stage(out, "test.stage", {"seed": 0}, {"source": "b"}).done()
    with pytest.raises(UserError, match=r"stage: test\.stage there, other now"):
        Stage(out, "other", {"seed": 0}, {"source": "a"}).done()


def test_identity_follows_parameters_inputs_and_bytes_but_not_time(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    make(tmp_path / "c", content="y")
    make(tmp_path / "d", source="z")
    same, again, other, input_ = (fingerprint(tmp_path / n) for n in "abcd")
    assert same == again
    assert len({same, other, input_}) == 3


def test_a_lost_or_cut_output_is_made_again(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "part.txt").write_text("")
    assert not Stage(tmp_path / "out", "test.stage", {"seed": 0}, {"source": "a"}).done()
    make(tmp_path / "out")
    (tmp_path / "out" / "part.txt").unlink()
    assert not Stage(tmp_path / "out", "test.stage", {"seed": 0}, {"source": "a"}).done()


def test_a_stage_that_wrote_nothing_binds_nobody(tmp_path: Path) -> None:
    for out in (tmp_path / "v1.0", tmp_path / "index.parquet"):
        begun = Stage(out, "test.stage", {"seed": 0}, {})
        begun.open()
        begun.close()
        again = Stage(out, "test.stage", {"seed": 1}, {})
        assert not again.done()
        again.open()
        again.close()
    assert (tmp_path / "v1.0" / "stage.json").exists()  # a dot does not make a folder a file


def test_replace_makes_again_instead_of_refusing(tmp_path: Path) -> None:
    make(tmp_path / "out", seed=0, replace=True)
    make(tmp_path / "out", seed=1, replace=True)
    assert read_manifest(tmp_path / "out")["params"] == {"seed": 1}


def _write_slowly(out: Path, opened: Any, finish: bool) -> None:
    stage = Stage(out, "test.stage", {}, {})
    stage.open()
    opened.set()
    time.sleep(0.5)
    if finish:
        (out / "result").write_text("x")
        stage.finish({}, ["result"], "done")


@pytest.mark.parametrize("finish", [True, False])
def test_a_second_writer_waits_for_the_first(tmp_path: Path, finish: bool, capsys: Any) -> None:
    context = multiprocessing.get_context("spawn")
    opened = context.Event()
    first = context.Process(target=_write_slowly, args=(tmp_path / "out", opened, finish))
    first.start()
    opened.wait()
    second = Stage(tmp_path / "out", "test.stage", {}, {})
    assert not second.done()
    if finish:
        with pytest.raises(DoneElsewhere) as ended:
            second.open()
        assert ended.value.code == 0
        assert "already done" in capsys.readouterr().out
    else:  # the first one died half-way: the second takes over
        second.open()
        assert second.started.exists()
        assert "waiting" in capsys.readouterr().out
        second.close()
    first.join()


def test_single_file_outputs_keep_their_manifest_beside_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "index.parquet", "test.stage", {}, {})
    stage.open()
    (tmp_path / "index.parquet").write_text("x")
    stage.finish({}, ["index.parquet"], "done")
    assert (tmp_path / "index.manifest.json").exists()
    assert Stage(tmp_path / "index.parquet", "test.stage", {}, {}).done()


def test_missing_and_broken_manifests_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the command that makes it first"):
        fingerprint(tmp_path / "nothing")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: unreadable record"):
        fingerprint(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        fingerprint(tmp_path / "out")


def test_atomic_path_leaves_nothing_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _exit_at_once() -> None:
    pass


def test_stale_temporaries_of_dead_writers_are_removed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_exit_at_once)
    process.start()
    process.join()
    dead, alive = tmp_path / f"a.tmp-{process.pid}", tmp_path / f"b.tmp-{os.getpid()}"
    dead.touch()
    alive.touch()
    remove_stale(tmp_path)
    assert not dead.exists() and alive.exists()


@pytest.mark.parametrize("record", ["manifest.json", "stage.json"])
def test_stages_of_version_0_1_are_known_by_their_present_names(
    tmp_path: Path, record: str
) -> None:
    out = tmp_path / "world"
    old = Stage(out, "data.world", {"seed": 0}, {})
    old.open()
    (out / "part.txt").write_text("x")
    if record == "manifest.json":
        old.finish({}, ["part.txt"], "1 row")
    old.close()
    assert '"data.world"' in (out / record).read_text()
    now = Stage(out, "world.build", {"seed": 0}, {})
    assert now.done() == (record == "manifest.json")
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        Stage(out, "world.build", {"seed": 1}, {}).done()
    if now.done():
        assert fingerprint(out, "world.build")


def test_only_settings_are_renamed_and_not_what_a_report_says(tmp_path: Path) -> None:
    """0.1 called two settings as figures of other stages are called."""
    made = Stage(tmp_path / "r", "data.leakage", {"near": 0.9}, {"avoid": "x"})
    made.open()
    fresh = made.finish({"near": [{"near": 1}], "avoid": 2}, [], "")
    record = read_manifest(tmp_path / "r")
    assert record["params"] == {"dedup_threshold": 0.9} and record["inputs"] == {"exclude": "x"}
    again = Stage(tmp_path / "r", "data.leakage", {"dedup_threshold": 0.9}, {"exclude": "x"})
    assert again.done() and again.result().summary == fresh.summary


def test_the_other_processes_of_a_launch_join_what_the_first_has_opened(tmp_path: Path) -> None:
    first = Stage(tmp_path / "s", "x", {}, {"corpus": "a"})
    first.open()
    Stage(tmp_path / "s", "x", {}, {"corpus": "a"}).join()
    with pytest.raises(UserError, match='corpus: "a" there, "b" now'):
        Stage(tmp_path / "s", "x", {}, {"corpus": "b"}).join()
    first.finish({}, [], "")
    with pytest.raises(DoneElsewhere):
        Stage(tmp_path / "s", "x", {}, {"corpus": "a"}).join()


@pytest.mark.parametrize("change", ["flipped", "missing"])
def test_an_input_that_is_not_as_it_was_written_is_refused_before_anything_is(
    tmp_path: Path, change: str
) -> None:
    """One bit, in a file of the same length."""
    make(tmp_path / "a")
    file = tmp_path / "a" / "part.txt"
    later = Stage(tmp_path / "b", "later", {}, {"a": fingerprint(tmp_path / "a")})
    if change == "flipped":
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]))
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"part.txt: .*(test.stage).*again"):
        later.open()
    assert not (tmp_path / "b").exists()
    file.unlink(missing_ok=True)
    make(tmp_path / "a")  # the way out that the message names
    later.open()


def test_each_of_several_stages_that_are_one_input_is_checked(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make(tmp_path / name)
    joined = fingerprint(tmp_path / "a") + fingerprint(tmp_path / "b") + fingerprint(tmp_path / "c")
    assert joined == "+".join(fingerprint(tmp_path / name) for name in "abc")
    (tmp_path / "b" / "part.txt").write_text("y")
    with pytest.raises(UserError, match=r"b/part.txt: damaged"):
        Stage(tmp_path / "d", "later", {}, {"embeddings": joined}).open()


@pytest.mark.parametrize("name", ["table.parquet", "folder"])
def test_a_failure_before_anything_is_written_leaves_no_record(tmp_path, name):
    def fails(stage):
        stage.open()
        assert stage.started.exists()
        raise UserError("no")

    stage = Stage(tmp_path / "out" / name, "x", {"a": 1}, {})
    with pytest.raises(UserError):
        run_stage(stage, fails)
    assert not stage.started.exists()

    def fails_later(stage):
        stage.open()
        (stage.out / "part" if name == "folder" else stage.out).write_text("half")
        raise UserError("no")

    with pytest.raises(UserError):
        run_stage(Stage(tmp_path / "out" / name, "x", {"a": 2}, {}), fails_later)
    assert stage.started.exists()  # it says what the half is of
