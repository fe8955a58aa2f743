"""The hold-out: which images, and what leaves the pool with them."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from core.errors import UserError
from core.stage import Stage, read_manifest
from data.curation.holdout import draw, pool, read_holdout
from data.formats.scores import SCORES
from data.formats.tables import read_parts, write_part
from data.holdout import main


def scores(folder, rows):
    """A finished score table of (key, digest, status) rows."""
    n = len(rows)
    columns = {
        "key": [key for key, _, _ in rows],
        "shard": ["files-00000"] * n,
        "row": list(range(n)),
        "digest": [digest for _, digest, _ in rows],
        "bytes": [1] * n,
        "width": [8] * n,
        "height": [8] * n,
        "entropy": [1.0 if status == "ok" else None for _, _, status in rows],
        "status": [status for _, _, status in rows],
        "reason": ["" if status == "ok" else "corrupt" for _, _, status in rows],
        "detail": [""] * n,
    }
    stage = Stage(folder, "prune.score", {}, {})
    stage.open()
    write_part(folder, 0, columns, SCORES)
    stage.finish({}, ["part-00000.parquet"], "")
    return pa.table(columns, schema=SCORES)


def hashed(key, seed=0):
    return hashlib.sha256(f"{seed}|{key}".encode()).hexdigest()


def test_smallest_hashes_among_usable_rows(tmp_path):
    rows = [(f"k{n}", f"d{n}", "rejected" if n % 5 == 0 else "ok") for n in range(50)]
    scores(tmp_path / "s", rows)
    out = tmp_path / "h.parquet"
    assert main(["--scores", str(tmp_path / "s"), "--n", "7", "--out", str(out)]) == 0
    usable = [key for key, _, status in rows if status == "ok"]
    held = read_holdout(out)
    assert held["key"].to_pylist() == sorted(usable, key=hashed)[:7]
    assert held.column_names == ["key", "shard", "row", "digest"]
    assert held["row"].to_pylist() == [int(key[1:]) for key in held["key"].to_pylist()]
    assert read_manifest(out)["summary"] == {"held": 7, "copies": 0, "pool": 33}


def test_again_is_nothing_to_do_and_another_seed_is_refused(tmp_path, capsys):
    scores(tmp_path / "s", [(f"k{n}", f"d{n}", "ok") for n in range(9)])
    command = ["--scores", str(tmp_path / "s"), "--n", "2", "--out", str(tmp_path / "h.parquet")]
    main(command)
    before = (tmp_path / "h.parquet").read_bytes()
    main(command)
    assert "already done" in capsys.readouterr().out
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        main([*command, "--seed", "1"])
    assert (tmp_path / "h.parquet").read_bytes() == before


def test_drawing_more_extends_the_draw():
    keys = [f"image/{n}" for n in range(200)]
    assert draw(keys, 20, 3)[:5] == draw(keys, 5, 3)
    assert draw(keys, 20, 3) != draw(keys, 20, 4)


def test_copies_of_held_out_images_leave_the_pool(tmp_path):
    rows = [(f"k{n}", f"d{n % 4}", "ok") for n in range(12)] + [("bad", "d1", "rejected")]
    table = scores(tmp_path / "s", rows)
    assert pool(table)["key"].to_pylist() == [f"k{n}" for n in range(12)]
    held = table.slice(6, 1)  # k6 of digest d2
    left = pool(table, held)
    assert left["key"].to_pylist() == [f"k{n}" for n in range(12) if n % 4 != 2]
    assert left.column_names == table.column_names


def test_too_many_is_refused(tmp_path):
    scores(tmp_path / "s", [(f"k{n}", f"d{n}", "ok") for n in range(5)])
    for n in ("5", "6", "0"):
        with pytest.raises(UserError, match=f"--n {n}"):
            main(["--scores", str(tmp_path / "s"), "--n", n, "--out", str(tmp_path / "h.parquet")])
    scores(tmp_path / "same", [(f"k{n}", "one", "ok") for n in range(5)])
    with pytest.raises(UserError, match="some must remain"):
        main(["--scores", str(tmp_path / "same"), "--n", "1", "--out", str(tmp_path / "g.parquet")])


def test_missing_inputs_are_named(tmp_path):
    with pytest.raises(UserError, match="not a finished stage"):
        main(["--scores", str(tmp_path / "absent"), "--out", str(tmp_path / "h.parquet")])
    with pytest.raises(UserError, match=r"make it with python -m data\.holdout"):
        read_holdout(tmp_path / "absent.parquet")
    with pytest.raises(UserError, match="name a file"):
        main(["--scores", str(tmp_path), "--out", str(tmp_path / "folder")])


def with_column(folder, rows, values, name="quality"):
    """A score table whose rows carry a value each."""
    table = scores(folder, rows)
    values = pa.array(values, pa.float64())
    table = (
        table.append_column(name, values)
        if name not in table.column_names
        else table.set_column(table.column_names.index(name), name, values)
    )
    stage = Stage(folder, "prune.score", {}, {})
    (folder / "manifest.json").unlink()
    stage.open()
    write_part(folder, 0, table)
    stage.finish({}, ["part-00000.parquet"], "")
    return table


@pytest.mark.parametrize("choice", ["quality", "entropy"])
def test_the_best_beside_the_random_ones(tmp_path, choice, capsys):
    rows = [(f"k{n}", f"d{n}", "rejected" if n == 49 else "ok") for n in range(50)]
    rows[7] = ("k7", "d48", "ok")  # a copy of the best usable one
    values = [float(n // 2) if n != 46 else None for n in range(50)]
    with_column(tmp_path / "s", rows, values, choice)
    first, best, both = (tmp_path / f"{n}.parquet" for n in ("first", "best", "both"))
    main(["--scores", str(tmp_path / "s"), "--n", "25", "--out", str(first)])
    flags = ["--choice", choice, "--exclude", str(first), "--n", "5", "--out", str(best)]
    main(["--scores", str(tmp_path / "s"), *flags])
    drawn, chosen = (read_holdout(path)["key"].to_pylist() for path in (first, best))
    left = [n for n in range(49) if f"k{n}" not in drawn and n != 46]
    if {"k7", "k48"} & set(drawn):
        left = [n for n in left if n not in (7, 48)]
    ranked = sorted(left, key=lambda n: (-values[n], hashed(f"k{n}")))
    assert chosen == [f"k{n}" for n in ranked[:5]]
    # A file that was made with the flag's former name is still the same, and so is the flag.
    record = best.with_suffix(".manifest.json")
    record.write_text(record.read_text().replace('"exclude"', '"besides"'))
    main(["--scores", str(tmp_path / "s"), *flags[:2], "--besides", *flags[3:]])
    shown = capsys.readouterr()
    assert "--besides is now called --exclude" in shown.err and "already done" in shown.out
    summary = read_manifest(best)["summary"]
    assert summary["mean"] > summary["mean_of_all"] and summary["held"] == 5
    assert main(["--join", str(first), str(best), str(first), "--out", str(both)]) == 0
    joined = read_holdout(both)
    assert joined["key"].to_pylist() == drawn + chosen
    table = read_parts(tmp_path / "s")
    remaining = pool(table, joined)
    assert not set(remaining["key"].to_pylist()) & set(drawn + chosen)
    assert summary["pool"] == remaining.num_rows


def test_a_choice_that_the_scores_do_not_allow(tmp_path):
    scores(tmp_path / "s", [(f"k{n}", f"d{n}", "ok") for n in range(9)])
    flags = ["--scores", str(tmp_path / "s"), "--out", str(tmp_path / "h.parquet"), "--n", "3"]
    with pytest.raises(UserError, match="no column 'quality'"):
        main([*flags, "--choice", "quality"])
    with_column(tmp_path / "t", [(f"k{n}", f"d{n}", "ok") for n in range(9)], [None] * 8 + [1.0])
    with pytest.raises(UserError, match="1 of 9 images have it; --n 3 asks for more"):
        main(["--scores", str(tmp_path / "t"), *flags[2:], "--choice", "quality"])
    with pytest.raises(UserError, match="give --scores"):
        main(flags[2:])
    with pytest.raises(UserError, match="draws nothing"):
        main([*flags, "--join", str(tmp_path / "h.parquet")])
