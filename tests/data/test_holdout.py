"""The hold-out: which images, and what leaves the pool with them."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from core.errors import UserError
from core.stage import Stage, read_manifest
from data.curation.holdout import balanced_quotas, draw, holdout_names, pool, read_holdout
from data.formats.embeddings import write_embeddings
from data.formats.scores import SCORES
from data.formats.tables import write_part, write_table
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
    flags = ["--scores", str(tmp_path / "s"), "--n", "7", "--out", str(out)]
    assert main([*flags, "--holdouts", "pool"]) == 0
    usable = [key for key, _, status in rows if status == "ok"]
    held = read_holdout(out)
    assert held["key"].to_pylist() == sorted(usable, key=hashed)[:7]
    assert held.column_names == ["key", "shard", "row", "digest", "class"]
    assert holdout_names(out) == ("pool",)
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


def test_a_small_corpus_gives_a_part_of_itself_and_says_so(tmp_path, capsys):
    scores(tmp_path / "s", [(f"k{n}", f"d{n}", "ok") for n in range(60)])
    flags = ["--scores", str(tmp_path / "s"), "--holdouts", "pool", "--at-most", "0.1"]
    assert main([*flags, "--n", "20", "--out", str(tmp_path / "h.parquet")]) == 0
    assert read_holdout(tmp_path / "h.parquet").num_rows == 6
    assert "WARNING: hold-outs of 6 images, not of 20" in capsys.readouterr().err
    assert main([*flags, "--n", "4", "--out", str(tmp_path / "g.parquet")]) == 0
    assert read_holdout(tmp_path / "g.parquet").num_rows == 4
    assert "WARNING" not in capsys.readouterr().err


def test_missing_inputs_are_named(tmp_path):
    with pytest.raises(UserError, match="not a finished stage"):
        main(["--scores", str(tmp_path / "absent"), "--out", str(tmp_path / "h.parquet")])
    with pytest.raises(UserError, match=r"make it with python -m data\.holdout"):
        read_holdout(tmp_path / "absent.parquet")
    with pytest.raises(UserError, match="name a file"):
        main(["--scores", str(tmp_path), "--out", str(tmp_path / "folder")])


def with_column(folder, rows, values, name):
    """A score table whose rows carry a value each."""
    table = scores(folder, rows)
    place = table.column_names.index(name)
    return with_column_table(folder, table.set_column(place, name, pa.array(values, pa.float64())))


def with_column_table(folder, table):
    stage = Stage(folder, "prune.score", {}, {})
    (folder / "manifest.json").unlink()
    stage.open()
    write_part(folder, 0, table)
    stage.finish({}, ["part-00000.parquet"], "")
    return table


def test_three_holdouts_by_their_rules(tmp_path, capsys):
    n = 120
    rows = [(f"{'abc'[k % 7 % 3]}/k{k}", f"d{k}", "ok") for k in range(n)]
    entropy = [float(k) for k in range(n)]
    with_column(tmp_path / "s", rows, entropy, "entropy")
    out = tmp_path / "h.parquet"
    flags = ["--scores", str(tmp_path / "s"), "--n", "12", "--seed", "3", "--out", str(out)]
    assert main([*flags, "--labels", "folders", "--informative-keep", "0.25"]) == 0
    assert holdout_names(out) == ("pool", "balanced", "informative")
    by_hash = sorted((key for key, _, _ in rows), key=lambda key: hashed(key, 3))
    drawn = {name: read_holdout(out, name) for name in holdout_names(out)}
    keys = {name: table["key"].to_pylist() for name, table in drawn.items()}
    assert keys["pool"] == by_hash[:12]
    top = {key for key, _, _ in rows[-30:]}
    assert keys["informative"] == [key for key in by_hash if key in top][:12]
    assert keys["balanced"] == sorted(
        (k for c in "abc" for k in [key for key in by_hash if key[0] == c][:4]), key=by_hash.index
    )
    assert drawn["balanced"]["class"].to_pylist() == [key[0] for key in keys["balanced"]]
    # Every image of any of them leaves the pool, once.
    everything = read_holdout(out)["key"].to_pylist()
    assert sorted(everything) == sorted(set().union(*keys.values()))
    summary = read_manifest(out)["summary"]
    assert summary["held"] == len(everything) and summary["pool"] == n - len(everything)
    assert summary["classes"] == {"a": 4, "b": 4, "c": 4}
    assert summary["informative"] == {"keep": 0.25, "tau": 90.0}
    assert main([*flags, "--labels", "folders", "--informative-keep", "0.25"]) == 0
    assert "already done" in capsys.readouterr().out


def test_without_classes_there_is_no_balanced_one(tmp_path):
    scores(tmp_path / "s", [(f"k{n}", f"d{n}", "ok") for n in range(30)])
    flags = ["--scores", str(tmp_path / "s"), "--n", "3"]
    main([*flags, "--out", str(tmp_path / "h.parquet")])
    assert holdout_names(tmp_path / "h.parquet") == ("pool", "informative")
    with pytest.raises(UserError, match=r"no 'balanced' hold-out in it \(it has pool, informative"):
        read_holdout(tmp_path / "h.parquet", "balanced")
    other = [*flags, "--out", str(tmp_path / "g.parquet")]
    with pytest.raises(UserError, match="over which classes"):
        main([*other, "--holdouts", "balanced"])
    with pytest.raises(UserError, match=r"absent\.csv: no such file"):
        main([*other, "--labels", str(tmp_path / "absent.csv")])
    with pytest.raises(UserError, match="gives 0 of the 30 usable images"):
        main([*other, "--labels", "folders"])
    with pytest.raises(UserError, match="go together"):
        main([*other, "--embeddings", str(tmp_path / "s")])
    rows = [(f"k{n}", f"d{n}", "ok") for n in range(30)]
    with_column(tmp_path / "t", rows, [float(n) for n in range(30)], "entropy")
    with pytest.raises(UserError, match=r"1 of 30 images are informative .*--informative-keep"):
        main(["--scores", str(tmp_path / "t"), *other[2:], "--informative-keep", "0.05"])


def test_labels_from_a_file(tmp_path):
    scores(tmp_path / "s", [(f"k{n:02d}", f"d{n}", "ok") for n in range(40)])
    lines = [f"k{n:02d},{'wood' if n % 4 else 'sea'}" for n in range(30)] + ["k30,", "gone,sea"]
    (tmp_path / "labels.csv").write_text("key,label\n" + "\n".join(lines) + "\n")
    out = tmp_path / "h.parquet"
    flags = ["--scores", str(tmp_path / "s"), "--out", str(out), "--n", "6"]
    main([*flags, "--labels", str(tmp_path / "labels.csv")])
    held = read_holdout(out, "balanced")
    assert sorted(held["class"].to_pylist()) == ["sea"] * 3 + ["wood"] * 3
    right = {f"k{n:02d}": "wood" if n % 4 else "sea" for n in range(30)}
    assert all(
        right[key] == c
        for key, c in zip(held["key"].to_pylist(), held["class"].to_pylist(), strict=True)
    )


def test_of_a_rare_class_half_at_most_and_the_others_make_it_up():
    assert balanced_quotas(9, {"a": 100, "b": 100, "c": 100}) == {"a": 3, "b": 3, "c": 3}
    assert balanced_quotas(10, {"c": 100, "a": 100, "b": 100}) == {"a": 4, "b": 3, "c": 3}
    assert balanced_quotas(10, {"a": 100, "b": 5, "c": 100, "d": 1}) == {
        "a": 4,
        "b": 2,
        "c": 4,
        "d": 0,
    }
    with pytest.raises(UserError, match="at most 7 images"):
        balanced_quotas(8, {"a": 11, "b": 5})


def test_the_better_half_by_quality_where_the_corpus_has_it(tmp_path):
    rows = [(f"k{n}", f"d{n}", "ok") for n in range(60)]
    table = with_column(tmp_path / "s", rows, [float(n) for n in range(60)], "entropy")
    quality = pa.array([None if n % 10 == 0 else float(n % 7) for n in range(60)], pa.float64())
    table = table.set_column(7, "entropy", pa.array(range(60), pa.float64()))
    with_column_table(tmp_path / "s", table.append_column("quality", quality))
    out = tmp_path / "h.parquet"
    main(
        [
            "--scores",
            str(tmp_path / "s"),
            "--n",
            "5",
            "--informative-keep",
            "0.5",
            "--out",
            str(out),
        ]
    )
    chosen = [int(key[1:]) for key in read_holdout(out, "informative")["key"].to_pylist()]
    median = np.median([n % 7 for n in range(30, 60) if n % 10])
    allowed = [n for n in range(30, 60) if n % 10 and n % 7 >= median]
    expected = sorted(allowed, key=lambda n: hashed(f"k{n}"))[:5]
    assert chosen == expected
    assert read_manifest(out)["summary"]["informative"]["quality"] == median


def test_joined_files_keep_their_holdouts(tmp_path):
    scores(tmp_path / "s", [(f"a/k{n}", f"d{n}", "ok") for n in range(40)]
           + [(f"b/k{n}", f"e{n}", "ok") for n in range(40)])  # fmt: skip
    first, second, both = (tmp_path / f"{name}.parquet" for name in ("first", "second", "both"))
    scored = ["--scores", str(tmp_path / "s")]
    main([*scored, "--n", "4", "--holdouts", "pool", "--out", str(first)])
    balanced = ["--holdouts", "balanced", "--labels", "folders"]
    main([*scored, "--n", "6", *balanced, "--out", str(second)])
    former = pa.table({"key": ["b/k39"], "shard": ["s"], "row": [0], "digest": ["e39"]})
    write_table(tmp_path / "former.parquet", former)
    assert holdout_names(tmp_path / "former.parquet") == ("pool",)
    flags = ["--join", str(first), str(second), "--out", str(both)]
    assert main(flags) == 0
    assert holdout_names(both) == ("pool", "balanced")
    for name, path in (("pool", first), ("balanced", second)):
        assert set(read_holdout(both, name)["key"].to_pylist()) == set(
            read_holdout(path, name)["key"].to_pylist()
        )
    with pytest.raises(UserError, match="draws nothing"):
        main([*flags, "--n", "3", "--labels", "folders"])


def test_classes_by_the_nearest_reference_images(tmp_path):
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8)
    encoder = {"name": "seeded"}

    def embeddings(name, labels, keys, extra):
        rows = centres[labels] + 0.1 * rng.standard_normal((len(labels), 8))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        stage = Stage(tmp_path / name, "prune.embed", {}, {})
        stage.open()
        write_embeddings(
            tmp_path / name, 0, rows.astype(np.float32), pa.table({"key": keys, **extra})
        )
        summary = {"dim": 8, "rows": len(rows), "parts": 1, "encoder": encoder}
        stage.finish(summary, ["part-00000.npy", "part-00000.parquet"], "")

    truth = rng.integers(0, 3, 90)
    names = ["sea", "town", "wood"]
    embeddings("reference", np.arange(30) % 3, [f"r{n}" for n in range(30)],
               {"label": [names[n % 3] for n in range(30)]})  # fmt: skip
    embeddings("images", truth, [f"k{n}" for n in range(90)], {})
    scores(tmp_path / "s", [(f"k{n}", f"d{n}", "ok") for n in range(90)])
    out = tmp_path / "h.parquet"
    flags = ["--scores", str(tmp_path / "s"), "--n", "9", "--out", str(out)]
    main(
        [
            *flags,
            "--embeddings",
            str(tmp_path / "images"),
            "--reference",
            str(tmp_path / "reference"),
        ]
    )
    held = read_holdout(out, "balanced").to_pylist()
    assert sorted(row["class"] for row in held) == sorted(names * 3)
    assert all(names[truth[int(row["key"][1:])]] == row["class"] for row in held)
    encoder["name"] = "another"
    embeddings("other", np.arange(30) % 3, [f"r{n}" for n in range(30)],
               {"label": [names[n % 3] for n in range(30)]})  # fmt: skip
    with pytest.raises(UserError, match="different encoders"):
        other = ["--reference", str(tmp_path / "other"), "--out", str(tmp_path / "g.parquet")]
        main([*flags[:4], "--embeddings", str(tmp_path / "images"), *other])
