"""eval.publish: what W&B's offline files hold of a plan, read back with W&B's own messages."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from core.errors import UserError
from core.stage import Stage
from data.formats.tables import write_part
from dit import train_vae
from dit.model import transformer
from dit.train import main as train
from eval.programme.plan import Plan, read_plan
from eval.publish import PublishConfig, main
from eval.publishing import dashboard
from eval.publishing.artifacts import artifact_of, sources, use_artifact
from eval.publishing.publish import run_id
from tests.dit.training import TINY, flags, latent_store
from tests.eval.plans import PlanMaker
from tests.wandb_files import OfflineRun, read_runs

ENTROPIES = [1.05, 1.05, 2.25, 7.95]
STEPS, BATCH = 12, 8


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DISABLED", "WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE",
                     "WANDB_TAGS", "WANDB_NAME", "WANDB_DIR"):  # fmt: skip
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("ACCELERATE_USE_CPU", "1")
        patch.setitem(transformer.MODELS, "tiny", TINY)
        yield patch


def make(root: Path) -> PlanMaker:
    """A plan of two methods, one of them with everything done; scores have entropies."""
    maker = PlanMaker(root)
    maker.family("git10m/rsprune-70", "rsprune", tasks=("generation", "track", "sr", "clustering"))
    maker.family("git10m/random-70", "random", tasks=("generation",), stop={"samples": "failed"})
    scores = pa.table({"key": list("abcde"), "entropy": [*ENTROPIES, None]})
    write_part(maker.out("git10m/rsprune-70", "scores"), 0, scores)
    return maker


def publish(plan: Plan, *more: str) -> int:
    runs = plan.file.parents[2]
    return main([plan.experiment, "--profile", plan.profile, "--runs", str(runs), *more])


def told(plan: Plan) -> dict[str, OfflineRun]:
    """The offline runs by their names; each has one folder."""
    found = read_runs(plan.file.parents[2])
    assert len({one.run.run_id for one in found}) == len(found)
    return {one.run.display_name: one for one in found}


def job_of(plan: Plan, part: str, cell: int = 0) -> Any:
    job = plan.job(plan.cells[cell].runs[0], part)
    assert job is not None
    return job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, _environment: Any) -> Plan:
    """The plan with a real training, which logged as the runner has it do."""
    root = tmp_path_factory.mktemp("published")
    maker = make(root)
    cell, out = maker.cells[0], maker.runs / "mini" / "trained"
    (name,) = {run["jobs"]["train"] for run in cell["runs"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_RUN_GROUP", "table1")
        patch.setenv("WANDB_NAME", name)
        patch.setenv("WANDB_TAGS", "corpus:git10m,method:rsprune,ratio:0.7,seed:0,profile:mini")
        given = flags(latent_store(root / "latents"), out, "--steps", str(STEPS))
        assert train([*given, "--batch", str(BATCH), "--log-every", "4"]) == 0
    (live,) = read_runs(out)
    assert (live.run.run_group, live.run.job_type) == ("table1", "dit.train")
    assert live.run.display_name == name and live.config["method"] == "rsprune"
    maker.jobs[name] |= {"out": str(out), "target": str(out / "manifest.json")}
    plan = read_plan(maker.write())
    (plan.folder / "table.csv").write_text("row,ours\nRS-Prune,4.0\nRandom,\n")
    (plan.folder / "table.md").write_text("| row | ours |\n")
    (plan.folder / "figures").mkdir()
    (plan.folder / "figures" / ".stage.lock").touch()
    sample = job_of(plan, "samples").out / "000000.png"
    (plan.folder / "figures" / "fid.png").write_bytes(sample.read_bytes())
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert publish(plan) == 0
    assert "left out" not in said.getvalue()  # of jobs that are not done nothing is expected
    return plan


def test_offline_files_hold_groups_job_types_and_tags(made: Plan) -> None:
    runs = told(made)
    done = {job.id: job for job in made.jobs.values() if job.state() == "done"}
    without = {job.id for job in done.values() if job.stage == "dit.encode"}
    assert set(runs) == set(done) - without | {"mini/table1"}
    for name, one in runs.items():
        assert one.run.run_group == "table1" and one.run.project == "rs-prune"
        assert one.run.job_type == (done[name].stage if name in done else "eval.tables")
        assert {"profile:mini", "table1"} <= set(one.run.tags)
        if name != job_of(made, "train").id:  # which has the id that it began with
            assert one.run.run_id == run_id(name)
    subset = runs[job_of(made, "subset").id]
    assert {"corpus:git10m", "method:rsprune", "ratio:0.7", "seed:0"} <= set(subset.run.tags)
    assert subset.config["method"] == "rsprune" and subset.config["corpus"] == "git10m"
    shared = runs[job_of(made, "scores").id]
    assert "corpus:git10m" in shared.run.tags
    assert not any(tag.startswith("method:") for tag in shared.run.tags)


def test_curves_are_over_the_samples_seen(made: Plan) -> None:
    runs = told(made)
    training = runs[job_of(made, "train").id]
    assert training.folder.parents[1] == job_of(made, "train").out  # the one folder of the run
    assert training.axes == {"samples_seen": "", "*": "samples_seen"}
    stats = (job_of(made, "train").out / "stats.jsonl").read_text().splitlines()
    rows = [row for row in training.history if "generation/loss" in row]
    assert [row["samples_seen"] for row in rows] == [4 * BATCH, 8 * BATCH, STEPS * BATCH]
    assert [row["generation/loss"] for row in rows] == [json.loads(line)["loss"] for line in stats]
    tuned = runs[job_of(made, "sr-train").id]
    assert tuned.history[-1]["sr/loss"] == pytest.approx(1 / 200)
    assert tuned.history[-1]["samples_seen"] == 32 * 200
    track = runs[job_of(made, "track").id]
    name = "track/ema/pool/FD-EfficientNetLite0"
    seen = [(row["samples_seen"], row[name]) for row in track.history if name in row]
    lines = (job_of(made, "track").out / "track.jsonl").read_text().splitlines()
    expected = [
        (line["samples"], line["distances"]["pool"]["value"])
        for line in map(json.loads, lines) if line["weights"] == "ema"
    ]  # fmt: skip
    assert seen == expected and len(seen) > 1


def test_values_histograms_tables_and_pictures_are_there(made: Plan) -> None:
    runs = told(made)
    measured = runs[job_of(made, "generation").id]
    assert measured.summary["generation/holdouts/pool/distance/value"] == 4.0
    assert measured.summary["generation/holdouts/pool/distance/interval_95/low"] == 3.9
    assert measured.summary["cost/seconds"] == 2.0
    table = read_table(measured, "generation/metrics")
    assert ["holdouts/pool/distance/value", 4.0, 3.9, 4.1] in table["data"]
    assert ["holdouts/pool/distance/n_real", 200, None, None] in table["data"]
    scores = runs[job_of(made, "scores").id]
    counts = scores.history[-1]["score/entropy/values"]
    assert {bin_: count for bin_, count in enumerate(counts) if count} == {10: 2, 22: 1, 79: 1}
    assert len(scores.history[-1]["score/entropy/bins"]) == 81
    subset = runs[job_of(made, "subset").id]
    assert subset.summary["select/counts/B"] == 390
    drawn = runs[job_of(made, "samples").id].history[-1]
    assert drawn["sample/pictures/count"] == 16 and "samples_seen" not in drawn
    whole = runs["mini/table1"]
    assert read_table(whole, "table")["data"] == [["RS-Prune", "4.0"], ["Random", ""]]
    assert whole.history[-1]["figures/fid/count"] == 1
    assert whole.summary["jobs/failed"] == 1


def read_table(one: OfflineRun, name: str) -> Any:
    (row,) = (row for row in one.history if f"{name}/path" in row)
    return json.loads((one.folder / "files" / row[f"{name}/path"]).read_text())


def test_lineage_goes_from_scores_to_the_table(made: Plan) -> None:
    """Whoever uses an artifact has its name and digest, as its maker logged it."""
    runs = told(made)
    logged = {name: one for run in runs.values() for name, one in run.logged.items()}
    used = {name: {use.name for use in one.used.values()} for name, one in runs.items()}
    for one in runs.values():
        for name, artifact in one.used.items():
            assert artifact.digest == logged[name].digest and artifact.user_created
            assert not logged[name].use_after_commit
    names = {part: job_of(made, part).id.replace("/", "-")
             for part in ("scores", "holdout", "assignments", "subset", "train", "samples",
                          "generation", "sr", "sr-train")}  # fmt: skip
    assert used[job_of(made, "scores").id] == set()
    chosen = {names[part] for part in ("scores", "holdout", "assignments")}
    assert used[job_of(made, "subset").id] == chosen
    assert used[job_of(made, "train").id] == {names["subset"]}  # through the latents
    assert names["train"] in used[job_of(made, "generation").id]  # through the samples
    assert names["sr-train"] in used[job_of(made, "sr").id]
    assert used["mini/table1"] == {names["generation"], names["sr"]}
    assert logged["table1-mini-table"].type == "table"
    held = {entry.path for entry in logged["table1-mini-table"].manifest.contents}
    assert held == {"table.csv", "table.md", "figures/fid.png"}
    trained = logged[names["train"]]
    files = {entry.path: entry for entry in trained.manifest.contents}
    step = f"checkpoints/step-{STEPS:07}"
    assert trained.type == "checkpoint"
    assert {"manifest.json", f"{step}/ema.safetensors", f"{step}/state.json"} <= set(files)
    assert Path(files[f"{step}/ema.safetensors"].local_path).exists()
    assert all(path == "manifest.json" or path.startswith(step) for path in files)  # the last only


def test_lineage_takes_the_nearest_of_each_type(made: Plan) -> None:
    """A store of latents has images of several subsets; a training is of its own."""
    mine, other = job_of(made, "subset"), job_of(made, "subset", 1)
    encode = job_of(made, "encode")
    first = dataclasses.replace(job_of(made, "encode", 1), needs=(other.id,))
    second = dataclasses.replace(encode, needs=(mine.id, first.id))
    plan = dataclasses.replace(made, jobs={**made.jobs, first.id: first, second.id: second})
    assert [job.id for job in sources(plan, job_of(made, "train"))] == [mine.id]


def test_a_vae_and_a_segmenter_are_told_with_their_curves(tmp_path: Path) -> None:
    maker = PlanMaker(tmp_path)
    maker.family("git10m/rsprune-70", "rsprune", tasks=(), stop={"subset": "missing"})
    shutil.copytree(Path(train_vae.__file__).parent / "vae" / "shipped" / "mini-f8",
                    vae := maker.runs / "vae")  # fmt: skip
    stage = Stage(segmenter := maker.runs / "segmenter", "downstream.train_segmenter",
                  {"batch": 4}, {})  # fmt: skip
    stage.open()
    (segmenter / "stats.jsonl").write_text('{"step": 5, "loss": 1.5}\n')
    stage.finish({"val": {"miou": {"value": 0.3}}}, ["stats.jsonl"], "made")
    for out, name in ((vae, "dit.train_vae"), (segmenter, "downstream.train_segmenter")):
        maker.jobs[name] = {**next(iter(maker.jobs.values())), "id": name, "stage": name,
                            "out": str(out), "target": str(out / "manifest.json")}  # fmt: skip
    plan = read_plan(maker.write())
    assert publish(plan) == 0
    runs = told(plan)
    row = runs["downstream.train_segmenter"].history[-1]
    assert (row["segmenter/loss"], row["samples_seen"]) == (1.5, 20)
    assert runs["downstream.train_segmenter"].summary["train_segmenter/val/miou/value"] == 0.3
    shown = runs["dit.train_vae"]
    lines = (vae / "training" / "stats.jsonl").read_text().splitlines()
    rows = [row for row in shown.history if "vae/l1" in row]
    assert [row["vae/l1"] for row in rows] == [json.loads(line)["l1"] for line in lines]
    assert rows[0]["samples_seen"] == 8 * rows[0]["step"]
    assert shown.history[-1]["train_vae/pictures/count"] == 1
    assert shown.folder.parents[1] == vae / "training"
    assert shown.logged["dit.train_vae"].type == "vae"


def test_again_changes_nothing_and_a_shared_job_is_there_once(
    made: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: one.folder for name, one in told(made).items()}
    assert publish(made) == 0
    assert "0 runs told" in capsys.readouterr().out
    assert {name: one.folder for name, one in told(made).items()} == before
    folder = made.folder.parent / "table2"  # of the same jobs
    folder.mkdir()
    text = made.file.read_text().replace(str(made.folder), str(folder))
    (folder / "plan.json").write_text(text.replace('"table1"', '"table2"'))
    assert publish(read_plan(folder / "plan.json")) == 0
    after = told(made)
    assert set(after) == set(before)  # the second has no tables yet
    for name in set(after) - {"mini/table1"}:
        assert after[name].run.run_group == "table1"
        assert {"table1", "table2"} <= set(after[name].run.tags)
    assert publish(made) == 0 and "0 runs told" in capsys.readouterr().out.splitlines()[-1]


def test_what_is_finished_later_is_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_plan(make(tmp_path).write())
    target = job_of(plan, "generation").target
    target.rename(aside := tmp_path / "aside.json")
    assert publish(plan) == 0
    assert job_of(plan, "generation").id not in told(plan)
    aside.rename(target)
    assert publish(plan) == 0
    assert "1 runs told" in capsys.readouterr().out.splitlines()[-1]
    first = told(plan)[job_of(plan, "generation").id]
    record = json.loads(target.read_text())  # measured anew: the same run, told again
    record["fingerprint"] = "f" * 64
    target.write_text(json.dumps(record))
    assert publish(plan) == 0
    again = told(plan)[job_of(plan, "generation").id]
    assert again.run.run_id == first.run.run_id and again.folder != first.folder


@pytest.mark.parametrize(
    ("flag", "kept"),
    [("reference", "reference"), ("none", "none"), ("auto", "reference"), ("files", "files")],
)
def test_large_checkpoints_are_sent_only_when_asked(made: Plan, flag: str, kept: str) -> None:
    config = PublishConfig(experiment="table1", checkpoints=flag, upload_mb=0.01)
    job = job_of(made, "train")
    artifact = artifact_of(job, config)
    entries = artifact.manifest.entries
    assert artifact.metadata["kept"] == kept and "manifest.json" in entries
    weights = entries.get(f"checkpoints/step-{STEPS:07}/ema.safetensors")
    assert (weights is None) == (kept == "none")
    if weights is not None:
        assert (weights.ref is not None) == (kept == "reference")
        assert weights.size == artifact.metadata["files"][weights.path]["bytes"]
    assert artifact_of(job, config).digest == artifact.digest
    assert artifact_of(job_of(made, "subset"), config).metadata["kept"] == "files"


def test_online_the_server_is_asked_to_note_a_use(made: Plan) -> None:
    asked: list[Any] = []
    online: Any = types.SimpleNamespace(offline=False, use_artifact=asked.append)
    artifact = artifact_of(job_of(made, "subset"), PublishConfig(experiment="table1"))
    use_artifact(online, artifact)
    assert asked == [artifact]


def test_damage_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_plan(make(tmp_path).write())
    job_of(plan, "generation").out.write_text("{")
    assert publish(plan) == 0
    assert f"{job_of(plan, 'generation').id}: left out" in capsys.readouterr().err
    assert job_of(plan, "sr").id in told(plan) and job_of(plan, "generation").id not in told(plan)
    (tmp_path / "runs" / "mini" / "wandb.json").write_text("{")
    with pytest.raises(UserError, match=r"wandb\.json: damaged .*delete it"):
        publish(plan)


def test_wandb_may_fail_or_be_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    plan = read_plan(make(tmp_path).write())
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        capsys.readouterr()
        assert publish(plan) == 0
        assert capsys.readouterr().out.count("\n") == 1
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", lambda **_: 1 / 0)
        assert publish(plan) == 0
        assert capsys.readouterr().err.count("W&B failed (") == 1  # it does not try every run
    assert not list(tmp_path.rglob("offline-run-*"))
    assert not (tmp_path / "runs" / "mini" / "wandb.json").exists()


def test_the_dashboard_has_its_sections(made: Plan) -> None:
    workspace = dashboard.build_dashboard(made, "team", "rs-prune")
    spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True))["section"]
    sections = {one["name"]: one["panels"] for one in spec["panelBankConfig"]["sections"]}
    assert list(sections) == [
        "Tables and figures", "Generation", "Super-resolution", "Pruning",
    ]  # fmt: skip
    curves = {
        panel["config"]["metrics"][0]: panel["config"]
        for panels in sections.values() for panel in panels
        if panel["viewType"] == "Run History Line Plot"
    }  # fmt: skip
    assert {"generation/loss", "sr/loss", "track/ema/pool/FD-EfficientNetLite0"} <= set(curves)
    known = {name for one in told(made).values() for row in one.history for name in row}
    for name, config in curves.items():  # panels of what is logged, and of nothing else
        assert name in known
        assert config["xAxis"] == "samples_seen" and config["groupBy"] == "method.value"
    bars = {
        panel["config"]["metrics"][0] for panel in sections["Super-resolution"]
        if panel["viewType"] == "Bar Chart"
    }  # fmt: skip
    assert {"sr/distance/value", "sr/perceptual/value", "sr/psnr/value"} <= bars
    (shown,) = spec["runSets"]
    assert [item["value"] for item in shown["filters"]["filters"]] == [["table1"], ["profile:mini"]]
    assert shown["grouping"] == [{"section": "config", "name": "method.value"}]


def test_a_dashboard_is_renewed_and_needs_a_network(
    made: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wandb_workspaces.workspaces import Workspace

    with pytest.raises(UserError, match=r"--dashboard: .*no key is at hand"):
        publish(made, "--dashboard")
    saved: list[tuple[str, str]] = []

    def save(self: Any) -> None:
        saved.append((self._internal_name, self._internal_id))
        self._internal_name, self._internal_id = "nw-1", "id-1"

    monkeypatch.setattr(Workspace, "save", save)
    monkeypatch.setattr(Workspace, "url", property(lambda self: "https://wandb.test/nw-1"))
    notes: dict[str, Any] = {"runs": {}, "dashboards": {}}
    publisher: Any = types.SimpleNamespace(
        plan=made, notes=notes, notes_file=made.folder / "notes.json", mode="online",
        project="rs-prune", config=PublishConfig(experiment="table1", entity="team"),
    )  # fmt: skip
    dashboard.save_dashboard(publisher)
    dashboard.save_dashboard(publisher)
    assert saved == [("", ""), ("nw-1", "id-1")]
    assert "dashboard -> https://wandb.test/nw-1" in capsys.readouterr().out
    publisher.notes_file.unlink()
    monkeypatch.setattr(Workspace, "save", lambda self: 1 / 0)
    dashboard.save_dashboard(publisher)
    assert "W&B made no dashboard" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match="pip install wandb-workspaces"):
        dashboard.save_dashboard(publisher)


def test_imports_are_light_until_something_is_told() -> None:
    code = (
        "import sys; import eval.publish, eval.publishing.publish, eval.publishing.dashboard;"
        "assert not {'torch', 'wandb', 'matplotlib', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
