"""The grid: it covers the paper, cells share what they can, and every command exists."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from core.errors import UserError
from core.settings import parse
from experiments.commands import Job
from experiments.graph import draw
from experiments.grid import GRID, load, names, only
from experiments.plan import describe, plan, write
from experiments.profiles import load_profile, profile_names
from experiments.run import _preflight

ROOT = Path(__file__).resolve().parent.parent.parent
CELLS = yaml.safe_load((ROOT / "eval" / "paper" / "paper.yaml").read_text())["cells"]
COUNTS = {"Table 1": 70, "Table 2": 48, "Table 3": 36, "Table 4": 30}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No variable of the machine that runs the tests changes a profile."""
    mini = load_profile("mini")
    kinds = (mini.corpora, mini.tasks, mini.references)
    places = [about for kind in kinds for about in kind.values()]
    variables = [about["variable"] for about in places if "variable" in about]
    for name in [*variables, *(key.upper() for key in mini.settings), "SD_VAE", "GIT_RSCLIP"]:
        monkeypatch.delenv(name, raising=False)


def planned(name, profile="mini", runs=Path("runs")):
    about = load_profile(profile)
    return plan(load(name, about), about, runs)


@pytest.mark.parametrize("table", COUNTS)
def test_every_cell_of_the_paper_has_one_family_that_measures_it(table):
    found = planned(table.lower().replace(" ", ""), "paper")
    of_table = [cell for cell in CELLS if cell["table"] == table]
    assert len(of_table) == COUNTS[table]
    reference = {  # some cells of Table 4 name their reference in the remark alone
        cell["value"]: cell.get("reference", cell.get("remark")) for cell in of_table
    }
    for cell in of_table:
        named = {"reference": reference[cell["value"]], **cell}
        families = [
            family for family in found.cells
            if family["paper"] is not None and family["paper"].items() <= named.items()
        ]  # fmt: skip
        if table == "Table 4" and cell["method"] == "rsprune" and "reference" not in cell:
            continue  # sample size, K, dimension: the same figure for several rows
        assert len(families) == 1, (cell, [family["name"] for family in families])
        assert cell["task"] in families[0]["tasks"]


def test_rows_that_the_paper_lacks_claim_none_of_its_cells():
    of = {name: planned(name, "paper").cells for name in ("table1", "table2", "ksweep")}
    lacking = [c for cells in of.values() for c in cells if c["method"] == "random-survivors"]
    assert len(lacking) == 4
    assert [cell["paper"] for cell in [*lacking, *of["ksweep"]]] == [None] * 9


@pytest.mark.parametrize("profile", profile_names())
def test_every_command_of_every_experiment_is_taken_by_its_parser(profile, monkeypatch):
    seen = set()
    for name in names():
        for job in planned(name, profile).jobs:
            stage, words = job.argv[2], job.argv[3:]
            shape = (stage, tuple(word for word in words if not word.startswith(("runs/", "$"))))
            if shape in seen:
                continue
            seen.add(shape)
            module = importlib.import_module(stage)
            config = getattr(module, next(n for n in module.__all__ if n.endswith("Config")))
            parse(config, words, prog=stage, description="")  # SystemExit or UserError if refused
    assert len(seen) > 30


@pytest.mark.parametrize("profile", profile_names())
def test_a_dry_run_of_every_experiment_prints_its_commands_in_order(profile, tmp_path):
    for name in names():
        found = planned(name, profile, tmp_path)
        text = describe(found)
        places = [text.index(f"# {job.id}:") for job in found.jobs]
        assert places == sorted(places)
        at = {job.id: place for job, place in zip(found.jobs, places, strict=True)}
        assert all(at[need] < at[job.id] for job in found.jobs for need in job.needs)
        asking = {cell for job in found.jobs for cell in job.cells}
        assert asking == {cell["name"] for cell in found.cells}
        write(found)
        assert found.file.is_file()


@pytest.mark.parametrize("profile", profile_names())
def test_the_picture_has_a_box_for_each_kind_of_stage_and_counts_every_job(profile):
    for name in ("table1", "table4", "rs5m_85"):
        found = planned(name, profile)
        drawn = ElementTree.fromstring(draw(found))
        texts = [e.text for e in drawn.iter() if e.tag.endswith("text")]
        counts = [int(text.split()[0]) for text in texts[1:] if text.endswith(" jobs")]
        assert sum(counts) == len(found.jobs)
        assert {text.split(" (")[0] for text in texts[1::2]} == {job.stage for job in found.jobs}


def test_cells_of_several_tables_find_the_same_training():
    trainings = {
        name: {job.id for job in planned(name).jobs if job.stage == "dit.train"}
        for name in ("table1", "table2", "table3", "table4", "git10m_85", "fig3")
    }
    assert len(trainings["table1"]) == 14 and len(trainings["table2"]) == 16
    assert len(trainings["table2"] & trainings["table3"]) == 4  # D30 at 85 and 90 %, two corpora
    assert len(trainings["git10m_85"] & trainings["table2"]) == 1
    assert len(trainings["table1"] & trainings["fig3"]) == 4  # full, random, dinov2, rsprune


def test_several_seeds_go_seed_by_seed_and_find_the_first_ones_jobs(monkeypatch):
    one = {job.id for job in planned("git10m_85").jobs}
    monkeypatch.setenv("SEEDS", "0 1")
    jobs = planned("git10m_85").jobs
    assert one < {job.id for job in jobs}
    trainings = [job.argv[job.argv.index("--seed") + 1] for job in jobs if job.stage == "dit.train"]
    assert trainings == ["0", "0", "1", "1"]
    drawn = [job for job in jobs if job.id not in one and job.stage == "prune.select"]
    assert [job.out.name.partition("-85")[0] for job in drawn] == ["git10m-random"]  # drawn anew


def test_what_changes_a_result_changes_its_name_and_machine_settings_do_not(monkeypatch):
    def ids(stage):
        return {job.id for job in planned("git10m_85").jobs if job.stage == stage}

    before = {stage: ids(stage) for stage in ("prune.select", "dit.train", "dit.sample")}
    monkeypatch.setenv("STEPS", "77")
    assert ids("prune.select") == before["prune.select"]
    assert not ids("dit.train") & before["dit.train"]
    assert not ids("dit.sample") & before["dit.sample"]  # of another training
    monkeypatch.delenv("STEPS")
    profile = load_profile("mini")
    profile.machine["dit.train"]["log-every"] = 7
    jobs: list[Job] = plan(load("git10m_85", profile), profile, Path("runs")).jobs
    assert {job.id for job in jobs if job.stage == "dit.train"} == before["dit.train"]
    assert any("7" in job.argv for job in jobs if job.stage == "dit.train")


def test_real_images_take_the_place_of_the_world(monkeypatch):
    monkeypatch.setenv("GIT10M_ROOT", "/data/Git-10M")
    jobs = planned("git10m_85").jobs
    assert any("/data/Git-10M" in job.argv for job in jobs if job.stage == "prune.score")
    assert [job.id for job in jobs if "candidates" in job.id]  # classes of the nearest reference
    assert [job for job in jobs if job.stage == "world.build"]  # references and tasks are not set


def test_usa1m_is_read_on_four_bands_and_has_a_vae_of_its_own(monkeypatch):
    jobs = planned("table1").jobs
    of = {
        stage: [j for j in jobs if j.stage == stage]
        for stage in ("dit.train_vae", "eval.reconstruction")
    }
    (vae,), (rebuilt,) = of.values()  # once for all cells of the corpus
    corpus = vae.argv[vae.argv.index("--corpus") + 1]
    world = next(j for j in jobs if j.stage == "world.build" and "--infrared" in j.argv)
    assert corpus == f"usa1m:{world.out}/naip?chip=64"
    assert vae.id in rebuilt.needs and world.id in vae.needs
    assert len(rebuilt.cells) == 7 and all(name.startswith("usa1m/") for name in rebuilt.cells)
    takers = [j for j in jobs if j.stage == "dit.encode" and vae.id in j.needs]
    assert len(takers) == 7 and all(corpus in j.argv for j in takers)
    (holdout,) = (j for j in jobs if j.stage == "data.holdout" and world.id in j.needs)
    assert f"{world.out}/naip-truth.parquet" in holdout.argv and "--at-most" in holdout.argv
    monkeypatch.setenv("VAE_USA1M", "/vae")
    jobs = planned("table1").jobs
    assert not [j for j in jobs if j.stage == "dit.train_vae"]
    (rebuilt,) = (j for j in jobs if j.stage == "eval.reconstruction")
    assert "/vae" in rebuilt.argv


@pytest.mark.parametrize(("value", "mini", "paper"), [
    ("/naip", "usa1m:/naip?chip=64", "usa1m:/naip"),
    ("usa1m:/naip", "usa1m:/naip", "usa1m:/naip"),
    ("/naip?chip=128", "/naip?chip=128", "/naip?chip=128"),
    ("usa1m:/naip?chip=96", "usa1m:/naip?chip=96", "usa1m:/naip?chip=96"),
])  # fmt: skip
def test_a_folder_of_naip_is_cut_into_chips_of_the_image_size(value, mini, paper, monkeypatch):
    monkeypatch.setenv("USA1M_ROOT", value)
    for name, expected in (("mini", mini), ("paper", paper)):
        assert load_profile(name).place("corpora", "usa1m") == expected


def test_the_dry_run_of_the_paper_has_the_vaes_hours_and_disk():
    found = planned("usa1m_70", "paper")
    (vae,) = (job for job in found.jobs if job.stage == "dit.train_vae")
    hours, _ = found.hours(vae)
    assert vae.gpus == 4 and 10 < hours < 20 and 1 < found.disk(vae) < 10
    assert vae.argv[vae.argv.index("--steps") + 1] == "100000" and "kl-f8" in vae.argv


@pytest.mark.parametrize(("name", "asked"), [
    ("usa1m_70", {"lpips-vgg"}), ("git10m_85", {"SD_VAE"}), ("table1", {"lpips-vgg", "SD_VAE"}),
])  # fmt: skip
def test_the_paper_asks_for_the_weights_that_its_vae_needs(name, asked, capfd):
    _preflight(planned(name, "paper"))
    listed = [line for line in capfd.readouterr().out.splitlines() if "]" in line]
    assert asked == {line.split("]")[1].split()[0] for line in listed} & {"lpips-vgg", "SD_VAE"}


@pytest.mark.parametrize(("variable", "value", "message"), [
    ("STEPS", "many", "STEPS=many"), ("STEPS", "0", "at least 1"), ("SEEDS", "0 0", "twice"),
    ("SEEDS", "-1", "at least 0"), ("CHECKPOINTS", "first", "best-validation"),
    ("TRACK", "maybe", "yes or no"),
])  # fmt: skip
def test_wrong_settings_are_refused_by_name(variable, value, message, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        load_profile("mini")


def test_wrong_names_are_refused():
    profile = load_profile("mini")
    for name in ("table9", "mars_85", "git10m_100", "ratio", "../table1"):
        with pytest.raises(UserError, match=r"expected CORPUS_PERCENT|no such experiment"):
            load(name, profile)
    with pytest.raises(UserError, match="expected mini, small, paper"):
        load_profile("huge")
    table = load("table1", profile)
    ours = only(table, ["corpus=git10m", "method=rsprune"])
    assert [cell.name for cell in ours.cells] == ["git10m/rsprune-70-D50"]
    assert len(only(table, ["git10m/full", "usa1m/full"]).cells) == 2
    with pytest.raises(UserError, match="git10m/rsprune-70-D50"):
        only(table, ["method=rsprun"])


def test_every_script_is_a_short_door_to_an_experiment_that_there_is():
    profile = load_profile("mini")
    grids = {path.stem for path in GRID.glob("*.yaml")} - {"ratio"}
    assert grids < set(names())
    for name in names():
        script = GRID.parent / f"{name}.sh"
        subprocess.run(["bash", "-n", str(script)], check=True)
        lines = script.read_text().splitlines()
        assert len(lines) <= 20 and lines[-1].endswith(f'run.sh" {name} "$@"')
        assert load(name, profile).cells
