"""prune.select and prune.index: from files to a subset index and back."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from core.errors import UserError
from data.curation.leakage import held_in_index
from data.formats.index import METADATA, read_index, write_index
from data.formats.tables import write_part
from prune import index as index_command
from prune.methods.catalogue import METHODS, find
from prune.select import SelectConfig, main, run
from prune.subsets.select import with_digests
from tests.prune.files import make_assignments, make_holdout, make_scores, places
from tests.vouch import vouch

COUNT, K = 200, 6
ROOT = Path(__file__).parents[2]


class World:
    """Scores of 200 images (3 rejected) and assignments of the best 60 % of the pool."""

    def __init__(self, root: Path) -> None:
        random = np.random.default_rng(0)
        self.root = root
        self.entropies = np.round(random.uniform(0, 8, COUNT), 1)  # with ties
        self.keys = places(COUNT)["key"]
        self.ok = [i for i in range(COUNT) if i not in (3, 77, 150)]
        self.scores = make_scores(root / "scores", self.entropies, rejected=(3, 77, 150))
        self.rows = np.asarray(self.survivors(0.6))
        self.cluster = random.choice(K, len(self.rows), p=[0.5, 0.2, 0.15, 0.1, 0.05, 0.0])
        self.similarity = np.round(random.uniform(-0.2, 1, len(self.rows)), 2).astype(np.float32)
        self.assignments = make_assignments(
            root / "assignments", self.rows, self.cluster, self.similarity, K, COUNT
        )

    def survivors(self, keep: float, held: tuple[int, ...] = ()) -> list[int]:
        pool = [i for i in self.ok if i not in held]
        pool.sort(key=lambda i: (-self.entropies[i], self.keys[i]))
        return pool[: int(len(pool) * keep + 1e-9)]

    def select(self, name: str, *flags: str) -> Path:
        out = self.root / "subsets" / f"{name}.parquet"
        assert main([*flags, "--scores", str(self.scores), "--out", str(out)]) == 0
        return out

    def rsprune(self, name: str, *flags: str) -> Path:
        more = ("--method", "rsprune", "--assignments", str(self.assignments))
        return self.select(name, *more, *flags)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_rsprune_end_to_end(world):
    table, metadata = read_index(world.rsprune("a", "--ratio", "0.8", "--keep", "0.4"))
    # N = 197 readable images, B = floor(197 x 0.2) = 39, q = floor(39 / 6) = 6.
    kept = world.survivors(0.4)
    at = {int(row): n for n, row in enumerate(world.rows)}
    members: dict[int, list[int]] = {k: [] for k in range(K)}
    for i in kept:
        members[int(world.cluster[at[i]])].append(i)

    def order(i: int) -> tuple[float, str]:
        return -float(world.similarity[at[i]]), world.keys[i]

    expected = {}
    rest = []
    for rows in members.values():
        rows.sort(key=order)
        expected.update({world.keys[i]: (place, "quota") for place, i in enumerate(rows[:6])})
        rest += [(i, place + 6) for place, i in enumerate(rows[6:])]
    rest.sort(key=lambda pair: order(pair[0]))
    short = 39 - len(expected)
    assert short > 3  # the remainder of B / K and what small clusters leave
    expected.update({world.keys[i]: (place, "remainder") for i, place in rest[:short]})
    found = {r["key"]: (r["rank"], r["chosen"]) for r in table.to_pylist()}
    assert found == expected
    for row in table.to_pylist():
        i = world.keys.index(row["key"])
        assert row["cluster"] == world.cluster[at[i]]
        assert row["similarity"] == world.similarity[at[i]]
        assert row["entropy"] == world.entropies[i]
        assert row["digest"] == f"{i:064x}"  # as make_scores gives them
    counts = metadata["counts"]
    assert {name: counts[name] for name in ("N", "B", "K", "q", "candidates")} == {
        "N": 197, "B": 39, "K": 6, "q": 6, "candidates": 78,
    }  # fmt: skip
    assert counts["quota_rows"] + counts["remainder_rows"] == 39
    assert counts["remainder_rows"] == short and counts["empty_clusters"] == 1
    assert metadata["params"] == {"ratio": 0.8, "keep": 0.4}
    assert metadata["encoder"] == {"name": "fake"}
    assert set(metadata["inputs"]) == {"scores", "assignments"}


def test_rows_are_sorted_by_place(world):
    table, _ = read_index(world.rsprune("a", "--ratio", "0.8", "--keep", "0.4"))
    place = list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert place == sorted(place) and len({s for s, _ in place}) > 1


def test_the_same_inputs_give_the_same_bytes(world, monkeypatch):
    monkeypatch.setattr("prune.subsets.select.code_version", lambda: "0" * 40)
    for name, select in (("r", world.rsprune), ("x", world.select)):
        more = () if name == "r" else ("--method", "random")
        one, two = (select(f"{name}{n}", *more, "--ratio", "0.85") for n in range(2))
        assert one.read_bytes() == two.read_bytes()


def test_a_finished_selection_is_left_alone_and_other_settings_are_refused(world, capsys):
    out = world.rsprune("a", "--ratio", "0.8")
    before = out.stat().st_mtime_ns
    world.rsprune("a", "--ratio", "0.8")
    assert out.stat().st_mtime_ns == before and "already done" in capsys.readouterr().out
    world.rsprune("a", "--ratio", "0.8", "--seed", "5")  # rsprune draws nothing at random
    with pytest.raises(UserError, match=r"ratio: 0.8 there, 0.9 now"):
        world.rsprune("a", "--ratio", "0.9")


def test_random_entropy_and_full(world):
    random, metadata = read_index(world.select("r", "--method", "random", "--ratio", "0.85"))
    assert random.num_rows == 29 and metadata["counts"] == {"N": 197, "B": 29}
    assert set(random["cluster"].to_pylist()) == {-1} and random["similarity"].null_count == 29
    assert sorted(random["rank"].to_pylist()) == list(range(29))
    assert metadata["params"] == {"ratio": 0.85, "seed": 0} and metadata["encoder"] is None
    other, _ = read_index(
        world.select("r1", "--method", "random", "--ratio", "0.85", "--seed", "1")
    )
    assert set(other["key"].to_pylist()) != set(random["key"].to_pylist())

    entropy, _ = read_index(world.select("e", "--method", "entropy", "--ratio", "0.85"))
    best = [world.keys[i] for i in world.survivors(1.0)[:29]]
    by_rank = entropy.sort_by("rank")
    assert by_rank["key"].to_pylist() == best

    full, metadata = read_index(world.select("f", "--method", "full"))
    assert full.num_rows == 197 and metadata["params"] == {}
    assert set(full["key"].to_pylist()) == {world.keys[i] for i in world.ok}


def test_the_holdout_leaves_the_pool(world):
    held = world.survivors(1.0)[:20]
    holdout = make_holdout(world.root / "holdout.parquet", world.scores, held)
    out = world.rsprune("h", "--ratio", "0.8", "--keep", "0.4", "--holdout", str(holdout))
    table, metadata = read_index(out)
    assert metadata["counts"]["N"] == 177 and table.num_rows == 35
    assert not set(table["key"].to_pylist()) & {world.keys[i] for i in held}
    assert set(metadata["inputs"]) == {"scores", "assignments", "holdout"}


@pytest.mark.parametrize("method", ["rsprune", "random", "entropy", "full"])
def test_no_method_chooses_a_held_out_image_or_a_copy_of_one(world, method, capsys):
    table = pq.read_table(world.scores / "part-00000.parquet")
    digests = table["digest"].to_pylist()
    digests[20:40] = digests[:20]  # row 20 + i is a copy of row i
    at = table.column_names.index("digest")
    copied = table.set_column(at, table.schema.field(at), pa.array(digests, pa.string()))
    pq.write_table(copied, world.scores / "part-00000.parquet")
    vouch(world.scores)
    held = [i for i in world.ok if i % 5 == 0]
    holdout = make_holdout(world.root / "holdout.parquet", world.scores, held)
    flags = [] if method == "full" else ["--ratio", "0.8"]
    more = ["--assignments", str(world.assignments), "--keep", "0.5"] * (method == "rsprune")
    out = world.select("h", "--method", method, *flags, *more, "--holdout", str(holdout))
    chosen = set(read_index(out)[0]["key"].to_pylist())
    gone = set(held) | {i + 20 for i in held if i < 20} | {i - 20 for i in held if 20 <= i < 40}
    assert chosen and not chosen & {world.keys[i] for i in gone}
    assert held_in_index(out, holdout, world.scores) == []
    given = ["--holdout", str(holdout), *more[:2]]
    assert verify(world, out, *given) == 0
    assert "verified" in capsys.readouterr().out


def test_random_survivors_are_drawn_among_what_stage_one_keeps(world):
    def draw(name, *flags):
        out = world.select(name, "--method", "random-survivors", *flags)
        return set(read_index(out)[0]["key"].to_pylist())

    flags = ("--ratio", "0.8", "--keep", "0.5", "--seed")
    draws = [draw("a", *flags, "0"), draw("b", *flags, "1")]
    kept = {world.keys[i] for i in world.survivors(0.5)}  # 98, of which 39 are drawn
    assert all(len(chosen) == 39 and chosen < kept for chosen in draws)
    assert draws[0] != draws[1]
    assert draws[0] != {world.keys[i] for i in world.survivors(0.2)}
    with pytest.raises(UserError, match="raise --keep"):
        draw("c", "--ratio", "0.5", "--keep", "0.3")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ratio", "0.5", "--keep", "0.3"), r"budget is 98 of 197.*keeps only 59.*raise --keep"),
        (("--ratio", "0.9", "--keep", "0.9"), r"59 of the 177 images .*keep 0.9.*118 assignments"),
        (("--ratio", "0.999"), "leaves none"),
        (("--ratio", "1.2"), "--ratio 1.2"),
        (("--ratio", "0.9", "--keep", "0"), "keep"),
    ],
)
def test_what_cannot_be_selected_is_said(world, flags, message):
    with pytest.raises(UserError, match=message):
        world.rsprune("bad", *flags)
    assert not (world.root / "subsets" / "bad.parquet").exists()


def test_wrong_files_are_refused(world, tmp_path):
    with pytest.raises(UserError, match="needs --assignments"):
        world.select("a", "--method", "rsprune")
    with pytest.raises(UserError, match=r"no such method(?s:.*)\n  rsprune"):
        world.select("a", "--method", "best")
    with pytest.raises(UserError, match=r"ends in \.parquet"):
        main(["--scores", str(world.scores), "--out", str(tmp_path / "subset")])
    elsewhere = make_assignments(
        tmp_path / "elsewhere", world.rows, world.cluster, world.similarity, K, COUNT
    )
    part = elsewhere / "part-00000.parquet"
    table = pq.read_table(part)
    moved = table.set_column(2, "row", pc.add(table["row"], 1))
    pq.write_table(moved, part)
    vouch(elsewhere)
    with pytest.raises(UserError, match="another listing"):
        world.select("a", "--assignments", str(elsewhere), "--ratio", "0.9")


def test_the_python_door(world):
    place = world.root / "door_{ratio}.parquet"
    given = {"scores": world.scores, "assignments": world.assignments, "keep": 0.5}
    made = run(SelectConfig(ratio=(0.8, 0.9), out=place, **given))
    assert {Path(name).name: m["counts"]["B"] for name, m in made.summary.items()} == {
        "door_80.parquet": 39, "door_90.parquet": 19,
    }  # fmt: skip
    again = run(SelectConfig(ratio=(0.8,), out=place, **given))
    assert again.reused and again.out.name == "door_80.parquet"
    assert again.summary["params"] == {"ratio": 0.8, "keep": 0.5}
    with pytest.raises(UserError, match=r"--ratio 85: .*0\.85 drops 85 %"):
        SelectConfig(scores=world.scores, out=place, ratio=(85,))


def test_digests_are_found_whatever_the_parts_hold(tmp_path):
    """Parts that mix shards, shards over several parts, and rows in any order."""
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "key": [f"k{i}" for i in range(90)],
            "shard": [f"s{i % 7}" for i in range(90)],
            "row": pa.array(np.arange(90) // 7, pa.int64()),
            "digest": [f"{i:064x}" for i in range(90)],
        }
    ).take(random.permutation(90))
    for n in range(3):
        write_part(tmp_path, n, table.slice(30 * n, 30))
    chosen = table.take(random.choice(90, 40, replace=False)).drop_columns(["digest"])
    found = with_digests(chosen, tmp_path)
    assert found.num_rows == 40
    assert found["digest"].to_pylist() == [f"{int(k[1:]):064x}" for k in found["key"].to_pylist()]


def test_the_catalogue_names_every_method():
    assert next(iter(METHODS)) == "rsprune"
    assert [find(name).name for name in METHODS] == list(METHODS)
    documented = inspect.getsource(SelectConfig).replace("\n    ", " ")
    assert f"{', '.join([*METHODS][:-1])} or {[*METHODS][-1]};" in documented


@pytest.mark.parametrize(
    "name", ["select", "index", "judge", "compare", "stability", "descriptor_accuracy"]
)
def test_a_command_imports_no_array_library_before_it_works(name):
    code = (
        f"import sys, prune.{name}\n"
        "heavy = {'numpy', 'pyarrow', 'scipy', 'PIL', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_finished_selection_needs_no_heavy_library(world):
    out = world.rsprune("a", "--ratio", "0.8")
    flags = ["--scores", str(world.scores), "--assignments", str(world.assignments)]
    flags += ["--ratio", "0.8", "--out", str(out)]
    code = (
        "import sys, prune.select\n"
        f"assert prune.select.main({flags!r}) == 0\n"
        "heavy = {'scipy', 'PIL', 'torch', 'matplotlib', 'diffusers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert b"already done" in done.stdout


# --- prune.index --------------------------------------------------------------------------------


def verify(world: World, out: Path, *flags: str) -> int | None:
    return index_command.main(["verify", str(out), "--scores", str(world.scores), *flags])


def tampered(out: Path, change) -> Path:
    table, metadata = read_index(out)
    path = out.with_name("tampered.parquet")
    write_index(path, change(table), metadata)
    return path


def test_verify_accepts_what_select_wrote(world, capsys):
    flags = ("--assignments", str(world.assignments))
    assert verify(world, world.rsprune("a", "--ratio", "0.8", "--keep", "0.4"), *flags) == 0
    assert verify(world, world.select("r", "--method", "random")) == 0
    assert "all 29 rows follow" in capsys.readouterr().out


def test_verify_finds_changes(world, capsys):
    out = world.rsprune("a", "--ratio", "0.8", "--keep", "0.4")
    flags = ("--assignments", str(world.assignments))

    def other_image(table: pa.Table) -> pa.Table:
        spare = next(
            world.keys[i] for i in world.ok if world.keys[i] not in table["key"].to_pylist()
        )
        return table.set_column(0, "key", pa.array([spare, *table["key"].to_pylist()[1:]]))

    def other_rank(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("rank")
        return table.set_column(at, "rank", pa.array([99, *table["rank"].to_pylist()[1:]]))

    def other_digest(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("digest")
        changed = pa.array(["f" * 64, *table["digest"].to_pylist()[1:]])
        return table.set_column(at, "digest", changed)

    for change, message in (
        (other_image, "1 images should not be in it"),
        (other_rank, "column 'rank' differs in 1 rows"),
        (other_digest, "column 'digest' differs in 1 rows"),
        (lambda t: t.slice(1), "1 images are missing"),
    ):
        assert verify(world, tampered(out, change), *flags) == 1
        assert message in capsys.readouterr().out


def test_verify_names_other_inputs(world, tmp_path):
    out = world.rsprune("a", "--ratio", "0.8")
    with pytest.raises(UserError, match="give --assignments"):
        verify(world, out)
    other = make_assignments(
        tmp_path / "other", world.rows, world.cluster, world.similarity[::-1], K, COUNT
    )
    with pytest.raises(UserError, match=r"other inputs.*\n.*assignments"):
        verify(world, out, "--assignments", str(other))
    holdout = make_holdout(tmp_path / "holdout.parquet", world.scores, [0])
    with pytest.raises(UserError, match="holdout: none recorded"):
        verify(world, out, "--assignments", str(world.assignments), "--holdout", str(holdout))


def test_show_and_diff(world, capsys):
    out = world.rsprune("a", "--ratio", "0.8", "--keep", "0.4")
    looser = world.rsprune("b", "--ratio", "0.8", "--keep", "0.6")
    capsys.readouterr()
    assert index_command.main(["show", str(out)]) == 0
    text = capsys.readouterr().out
    assert "39 of 197 images" in text and "(q = 6, K = 6)" in text and "5 of 6 hold images" in text
    assert index_command.main(["show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["B"] == 39

    assert index_command.main(["diff", str(out), str(out)]) == 0
    assert "shared 39 images, 100.0%" in capsys.readouterr().out
    left, right = (set(read_index(p)[0]["key"].to_pylist()) for p in (out, looser))
    assert left != right
    assert index_command.main(["diff", str(out), str(looser)]) == 1
    text = capsys.readouterr().out
    assert f"39 images, {len(left - right)} of them only here" in text
    assert f"shared {len(left & right)} images" in text


def test_diff_looks_at_the_bytes_too(world, capsys):
    out = world.rsprune("a", "--ratio", "0.8", "--keep", "0.4")
    other = tampered(out, lambda t: t.set_column(3, "digest", pa.array(["f" * 64] * t.num_rows)))
    assert index_command.main(["diff", str(out), str(other)]) == 1
    assert "39 of them with other bytes" in capsys.readouterr().out


def of_version_01(path: Path) -> Path:
    """The index as version 0.1 wrote it: without digests."""
    table = pq.read_table(path)
    old = path.with_name("old.parquet")
    pq.write_table(table.drop_columns(["digest"]), old)
    return old


def test_an_index_of_version_01_is_read_and_verified_with_a_note(world, capsys):
    out = world.rsprune("a", "--ratio", "0.8", "--keep", "0.4")
    old = of_version_01(out)
    table, _ = read_index(old)
    assert table.column_names == read_index(out)[0].column_names
    assert table["digest"].null_count == table.num_rows
    assert "old.parquet: has no digests" in capsys.readouterr().err
    assert verify(world, old, "--assignments", str(world.assignments)) == 0
    assert "all 39 rows follow from its inputs (it has no digests" in capsys.readouterr().out
    assert index_command.main(["diff", str(out), str(old)]) == 0
    assert index_command.main(["show", str(old)]) == 0


def test_unknown_index_command():
    with pytest.raises(UserError, match="there are show, verify, diff"):
        index_command.main(["check", "x.parquet"])
    assert index_command.main([]) == 2


# --- the file format ----------------------------------------------------------------------------


def test_broken_indices_are_named(world, tmp_path):
    out = world.select("r", "--method", "random")
    table = pq.read_table(out)

    def saved(changed: pa.Table, name: str = "broken.parquet") -> Path:
        pq.write_table(changed, tmp_path / name)
        return tmp_path / name

    cases = [
        (table.replace_schema_metadata(None), "no 'rsprune' metadata"),
        (table.replace_schema_metadata({METADATA: b"{"}), "is not JSON"),
        (table.replace_schema_metadata({METADATA: b"{}"}), "metadata lacks method"),
        (table.drop_columns(["rank"]), "column 'rank' is missing"),
        (table.set_column(2, "row", table["row"].cast(pa.int32())), "'row' is int32"),
        (pa.concat_tables([table, table.slice(0, 1)]), "listed more than once"),
        (table.take(pa.array([1, 0])), "not in the order"),
        (table.slice(0, 0), "no image"),
        (
            table.set_column(3, "digest", pa.array(["abc"] * table.num_rows)),
            "'digest' has entries that are no SHA-256",
        ),
        (
            table.set_column(8, "chosen", pa.array(["luck"] * table.num_rows)),
            "chosen = 'luck' is none of",
        ),
        (
            table.set_column(0, "key", pa.array([None, *table["key"].to_pylist()[1:]])),
            "'key' has empty entries",
        ),
    ]
    for changed, message in cases:
        path = saved(changed)
        with pytest.raises(UserError, match=message) as caught:
            read_index(path)
        assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="no such subset index"):
        read_index(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("not Parquet")
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_index(tmp_path / "text.parquet")


def test_an_incomplete_index_is_not_written(world, tmp_path):
    table, metadata = read_index(world.select("r", "--method", "random"))
    path = tmp_path / "x.parquet"
    with pytest.raises(ValueError, match="lacks method"):
        write_index(path, table, {k: v for k, v in metadata.items() if k != "method"})
    with pytest.raises(ValueError, match=r"column.* entropy"):
        write_index(path, table.drop_columns(["entropy"]), metadata)
    with pytest.raises(ValueError, match="more than once"):
        write_index(path, pa.concat_tables([table, table]), metadata)
    assert not path.exists()
