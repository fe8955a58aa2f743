"""Metrics along a run: its own lines once each, followed, stopped, repaired; same as by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import dit.training.checkpoint
import eval.judges.features
import eval.records.curves
import eval.records.measure
import eval.records.track
from core.cost import so_far
from core.errors import UserError
from core.stage import Stage, digest_of, sha256_file
from dit.sample import main as sample
from dit.sampling.sample import draw_latents
from dit.training.checkpoint import save_checkpoint
from dit.vae.autoencoder import describe_vae
from eval.evaluate import main as evaluate
from eval.loss import main as measure_loss
from eval.track import main
from tests.data.pictures import encode, scene
from tests.dit.test_sample import small_dit
from tests.dit.tiny_vae import save_tiny_vae

ROOT = Path(__file__).parents[2]
TRAINED = {"params": {"steps": 9}, "inputs": {"latents": "l" * 64}}
SAMPLING = ["--n", "5", "--steps", "2", "--seed", "3"]


class Made(NamedTuple):
    """What all tests read: a VAE, a corpus of 16 px images and a hold-out of it."""

    vae: Path
    corpus: Path
    holdout: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    root = tmp_path_factory.mktemp("track")
    corpus = root / "corpus"
    corpus.mkdir()
    for i in range(8):
        (corpus / f"{i}.png").write_bytes(encode(scene(i, 16, 16), "PNG"))
    held = holdout(root / "holdout.parquet", corpus, range(6))
    return Made(save_tiny_vae(root / "vae"), corpus, held)


@pytest.fixture(autouse=True)
def _no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second less for each line, where the picture is not looked at."""
    monkeypatch.setattr(eval.records.curves, "draw", lambda _, out, title: out.write_text(title))


def holdout(path: Path, corpus: Path, rows: range) -> Path:
    keys = [f"{i}.png" for i in rows]
    places = {"key": keys, "shard": ["files-00000"] * len(keys), "row": list(rows)}
    digests = [sha256_file(corpus / key) for key in keys]
    pq.write_table(pa.table({**places, "digest": digests}), path)
    return path


class Run:
    """A run folder as dit.train leaves it, checkpoint by checkpoint."""

    def __init__(self, folder: Path, vae: Path) -> None:
        self.folder, self.info = folder, describe_vae(vae)
        self.stage = Stage(folder, "dit.train", TRAINED["params"], TRAINED["inputs"])

    def save(self, *steps: int, scale: float = 1.0, run: str = digest_of(TRAINED)) -> Run:
        """Checkpoints whose weights grow with the step; the average's are half the raw ones'."""
        self.stage.open()
        model = small_dit(num_classes=3)
        for step in steps:
            raw = {name: v * scale * (1 + step / 10) for name, v in model.state_dict().items()}
            made_by = self.info.fingerprint
            latent = {"vae_fingerprint": made_by, "image_size": 16, "shape": [4, 4, 4]}
            state = {"model": {"class": "DiT", **model.config}, "latent": latent}
            state |= {"samples": 8 * step, "run": run}
            ema = {name: v * 0.5 for name, v in raw.items()}
            save_checkpoint(self.folder, step, {"model": raw, "ema": ema}, state, keep=99)
        self.stage.close()
        return self

    def end(self) -> None:
        self.stage.finish({}, [], "trained")

    def path(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:07d}"


@pytest.fixture
def training(made: Made, tmp_path: Path) -> Run:
    return Run(tmp_path / "run", made.vae).save(2, 4)


def flags(made: Made, run: Run, out: Path, *more: str) -> list[str]:
    places = ["--run", run.folder, "--vae", made.vae, "--holdout", made.holdout, "--out", out]
    words = [*map(str, places), "--corpus", str(made.corpus), "--extractor", "descriptor"]
    return [*words, "--device", "cpu", *SAMPLING, *more]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "track.jsonl").read_text().splitlines()]


def kinds(out: Path) -> list[tuple[int, str]]:
    return [(line["step"], line["weights"]) for line in lines(out)]


def kept(out: Path) -> list[Path]:
    """The files of the hold-outs' features."""
    return sorted((out / "features").iterdir())


def in_a_while(action: Callable[[], object], ready: Callable[[], bool]) -> threading.Thread:
    """Do `action` as soon as `ready`, beside the test."""

    def wait() -> None:
        while not ready():
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_lines_are_what_sampling_and_evaluating_by_hand_give(made, training, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(flags(made, training, out)) == 0
    assert kinds(out) == [(2, "ema"), (2, "raw"), (4, "ema"), (4, "raw")]
    line = lines(out)[3]
    assert line["samples"] == 32 and line["seconds"] > 0
    assert len({entry["distance"]["value"] for entry in lines(out)}) == 4
    drawn, metrics = tmp_path / "drawn", tmp_path / "metrics.json"
    given = ["--checkpoint", str(training.path(4)), "--weights", "raw", "--sampler", "ddim"]
    sample([*given, *SAMPLING, "--vae", str(made.vae), "--out", str(drawn), "--device", "cpu"])
    given = ["--generated", str(drawn), "--corpus", str(made.corpus), "--image-size", "16"]
    given += ["--holdout", str(made.holdout), "--extractor", "descriptor", "--device", "cpu"]
    evaluate([*given, "--out", str(metrics)])
    by_hand = json.loads(metrics.read_text())
    for part in ("extractor", "sampling"):
        assert line[part] == by_hand[part]
    assert line["distance"] == by_hand["holdouts"]["pool"]["distance"]
    assert line["distance"]["name"] == "FD-descriptor"
    assert line["distances"] == {"pool": line["distance"]}  # a file that names no hold-out
    loss = ["--checkpoint", training.path(4), "--vae", made.vae, "--corpus", made.corpus]
    loss += ["--holdout", made.holdout, "--out", tmp_path / "loss.json", "--device", "cpu"]
    measure_loss([*map(str, loss), "--per-bin", "1", "--seed", "3"])
    by_hand = json.loads((tmp_path / "loss.json").read_text())["raw"]["pool"]
    assert line["loss"].keys() == {"pool"} and line["loss"]["pool"]["n"] == 6
    for term in ("loss", "mse", "vb"):
        assert line["loss"]["pool"][term] == pytest.approx(by_hand[term]["value"], rel=1e-6)
    assert Image.open(out / "track.png").format == "PNG"
    said = capsys.readouterr().out
    assert f"step 4 (32 samples), raw: FD-descriptor {line['distance']['value']:.4g}" in said


def test_every_hold_out_of_the_file_is_measured_or_the_one_asked_for(
    made, training, tmp_path, undrawn
):
    table = pq.read_table(made.holdout)
    which = {"pool": [True] * 4 + [False] * 2, "balanced": [False] * 6}
    which["informative"] = [False] * 2 + [True] * 4
    for name, values in which.items():
        table = table.append_column(name, pa.array(values))
    several = tmp_path / "several.parquet"
    pq.write_table(table.append_column("class", pa.nulls(6, pa.string())), several)
    words = ["--holdout", str(several), "--weights", "raw", "--every", "4"]
    main(flags(made, training, tmp_path / "all", *words))
    main(flags(made, training, tmp_path / "one", *words, "--against", "informative"))
    (every,), (one,) = lines(tmp_path / "all"), lines(tmp_path / "one")
    assert list(every["distances"]) == list(every["loss"]) == ["pool", "informative"]
    assert every["distance"] == every["distances"]["pool"] != every["distances"]["informative"]
    assert one["distance"] == every["distances"]["informative"] and len(one["distances"]) == 1
    assert one["loss"] == every["loss"]
    main(flags(made, training, tmp_path / "without", *words, "--loss-images", "0"))
    assert lines(tmp_path / "without")[0]["loss"] is None
    with pytest.raises(UserError, match="no 'balanced' hold-out"):
        main(flags(made, training, tmp_path / "none", *words, "--against", "balanced"))
    with pytest.raises(UserError, match=r"loss_images: null there, 3 now"):
        main(flags(made, training, tmp_path / "all", *words, "--loss-images", "3"))


def test_a_track_of_earlier_versions_goes_on(made, training, tmp_path):
    """Its lines know one distance and no loss, its settings neither of the new ones."""
    out = tmp_path / "out"
    main(flags(made, training, out, "--every", "4"))
    record = out / "track.jsonl"
    old = [{k: v for k, v in line.items() if k not in ("distances", "loss")} for line in lines(out)]
    record.write_text("".join(json.dumps(line) + "\n" for line in old))
    begun = json.loads((out / "stage.json").read_text())
    assert not {"against", "loss_images"} & begun["params"].keys()
    main(flags(made, training, out))
    assert kinds(out) == [(4, "ema"), (4, "raw"), (2, "ema"), (2, "raw")]
    assert ["loss" in line for line in lines(out)] == [False, False, True, True]


def test_again_there_is_nothing_to_do_and_no_torch_is_needed(made, training, tmp_path, undrawn):
    out = tmp_path / "out"
    main(flags(made, training, out))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    code = (
        "import sys; from eval.track import main; assert main(sys.argv[1:]) == 0; "
        "assert not {'torch', 'diffusers', 'matplotlib', 'wandb'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, *flags(made, training, out)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing left to do, 4 lines" in done.stdout
    assert so_far(out / "stage.json")["images"] == 4 * int(SAMPLING[SAMPLING.index("--n") + 1])
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_only_what_is_missing_is_measured(made, training, tmp_path, monkeypatch, undrawn):
    out = tmp_path / "out"
    main(flags(made, training, out, "--every", "4", "--weights", "ema"))
    assert kinds(out) == [(4, "ema")]
    first, features = (out / "track.jsonl").read_bytes(), kept(out)[0].read_bytes()
    # The hold-out's features are not made again.
    again = lambda *_: pytest.fail("made again")  # noqa: E731
    monkeypatch.setattr(eval.judges.features, "atomic_path", again)
    main(flags(made, training.save(7), out, "--weights", "ema", "--batch", "2"))
    assert kinds(out) == [(4, "ema"), (2, "ema"), (7, "ema")]
    assert (out / "track.jsonl").read_bytes().startswith(first)
    main(flags(made, training, out, "--every", "7"))
    assert kinds(out)[3:] == [(7, "raw")]
    # A checkpoint trained anew is another one.
    main(flags(made, training.save(7, scale=1.1), out, "--every", "7"))
    assert kinds(out)[4:] == [(7, "ema"), (7, "raw")]
    assert lines(out)[5]["distance"]["value"] != lines(out)[3]["distance"]["value"]
    assert [path.read_bytes() for path in kept(out)] == [features]


def test_features_are_made_again_for_another_corpus(made, training, tmp_path, undrawn):
    out, corpus = tmp_path / "out", tmp_path / "corpus"
    corpus.mkdir()
    for path in made.corpus.iterdir():
        (corpus / path.name).write_bytes(path.read_bytes())
    same = made._replace(corpus=corpus)
    main(flags(same, training, out, "--every", "4", "--weights", "raw"))
    (path,) = kept(out)
    features = path.read_bytes()
    path.write_bytes(features[: len(features) // 2])
    main(flags(same, training, out, "--every", "4", "--weights", "ema"))
    assert path.read_bytes() == features
    (corpus / "8.png").write_bytes(encode(scene(8, 16, 16), "PNG"))
    training.save(6)
    main(flags(same, training, out, "--every", "6", "--weights", "raw"))
    assert len(kept(out)) == 2  # another listing
    (corpus / "0.png").write_bytes(encode(scene(99, 16, 20), "PNG"))
    with pytest.raises(UserError, match=r"'0\.png': its bytes .* are not those that were scored"):
        main(flags(same, training, out, "--every", "2"))


def test_a_truncated_last_line_is_measured_again(made, training, tmp_path, capsys, undrawn):
    out = tmp_path / "out"
    main(flags(made, training, out))
    record = out / "track.jsonl"
    complete = lines(out)
    record.write_bytes(record.read_bytes()[:-40])
    (out / "track.png").unlink()
    assert main(flags(made, training, out)) == 0
    assert "cut off" in capsys.readouterr().out
    again = lines(out)
    for line in (*complete, *again):
        del line["seconds"]
    assert again == complete
    assert (out / "track.png").exists()


def test_a_missing_picture_is_drawn(made, training, tmp_path):
    out = tmp_path / "out"
    main(flags(made, training, out, "--every", "4", "--weights", "raw"))
    (out / "track.png").unlink()
    main(flags(made, training, out, "--every", "4", "--weights", "raw"))
    assert (out / "track.png").exists() and len(lines(out)) == 1


def test_damaged_and_deleted_checkpoints_are_passed_over(
    made, training, tmp_path, monkeypatch, capsys, undrawn
):
    out = tmp_path / "out"
    training.save(6, 8)
    weights = training.path(2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (training.path(4) / "state.json").write_text("{}")
    real = dit.training.checkpoint.load_tensors

    def deletes_first(checkpoint: Path, stem: str) -> dict[str, torch.Tensor]:
        if checkpoint == training.path(6) and checkpoint.exists():
            checkpoint.rename(checkpoint.with_name("step-6.old.tmp-1"))
        return real(checkpoint, stem)

    monkeypatch.setattr(dit.training.checkpoint, "load_tensors", deletes_first)
    assert main(flags(made, training, out)) == 0
    assert kinds(out) == [(2, "ema"), (8, "ema"), (8, "raw")]
    said = capsys.readouterr()
    assert said.err.count("DAMAGED CHECKPOINT PASSED OVER") == 2
    assert "model.safetensors: its SHA-256" in said.err and "state.json" in said.err
    assert "step-0000006 passed over: the training has deleted it" in said.out
    # Trained again, they get the lines that they lack.
    main(flags(made, training.save(2, 4), out))
    assert kinds(out)[3:] == [(2, "raw"), (4, "ema"), (4, "raw")]


def test_other_settings_are_refused(made, training, tmp_path, undrawn):
    out = tmp_path / "out"
    main(flags(made, training, out, "--every", "4", "--weights", "raw"))
    before = (out / "track.jsonl").read_bytes()
    for more, named in {
        ("--n", "6"): "n: 5 there, 6 now",
        ("--seed", "4"): "seed: 3 there, 4 now",
        ("--sampler", "dpmpp"): 'sampler: "ddim" there',
        ("--holdout", str(holdout(tmp_path / "other.parquet", made.corpus, range(5)))): "holdout: ",
    }.items():
        with pytest.raises(UserError, match=named):
            main(flags(made, training, out, "--every", "4", "--weights", "raw", *more))
    with pytest.raises(UserError, match="of another run"):
        main(flags(made, training.save(8, run="r" * 64), out, "--every", "8"))
    assert (out / "track.jsonl").read_bytes() == before


def test_another_vae_is_refused_and_binds_nothing(made, training, tmp_path, undrawn):
    out = tmp_path / "out"
    other = save_tiny_vae(tmp_path / "vae", seed=1)
    with pytest.raises(UserError, match="not the VAE"):
        main(flags(made._replace(vae=other), training, out))
    with pytest.raises(UserError, match="even stride"):
        main(flags(made, training, out, "--steps", "300"))
    main(flags(made, training, out, "--every", "4", "--weights", "raw"))
    assert kinds(out) == [(4, "raw")]


def test_another_extractor_is_refused(made, training, tmp_path, monkeypatch, undrawn):
    out = tmp_path / "out"
    main(flags(made, training, out, "--every", "4", "--weights", "raw"))
    monkeypatch.setattr("data.images.descriptor.DESCRIPTOR_VERSION", "colour-texture-0")
    with pytest.raises(UserError, match="colour-texture-0"):
        main(flags(made, training, out))
    assert kinds(out) == [(4, "raw")]


def test_follows_until_the_training_has_ended(made, tmp_path, monkeypatch, capsys, undrawn):
    out, training = tmp_path / "out", Run(tmp_path / "run", made.vae)
    training.path(1).mkdir(parents=True)  # a damaged checkpoint
    # What the training does while the command waits, at each look.
    meanwhile = [
        lambda: training.save(3), lambda: None, lambda: training.save(5), training.end
    ]  # fmt: skip
    monkeypatch.setattr(eval.records.track, "_wait", lambda *_: meanwhile.pop(0)())
    assert main(flags(made, training, out, "--weights", "ema", "--follow")) == 0
    assert not meanwhile and kinds(out) == [(3, "ema"), (5, "ema")]
    said = capsys.readouterr()
    assert said.out.count("to begin") == 1 and said.err.count("DAMAGED") == 1
    assert said.out.count("waiting for checkpoints") == 2  # once after each line


def test_a_stop_leaves_complete_lines_and_the_next_call_goes_on(
    made, training, tmp_path, monkeypatch, capsys, undrawn
):
    out, batches = tmp_path / "out", []

    def stops(*given: Any) -> torch.Tensor:
        batches.append(given)
        if len(batches) == 5:  # two batches a line: in the middle of the third one
            os.kill(os.getpid(), signal.SIGTERM)
        return draw_latents(*given)

    monkeypatch.setattr(eval.records.measure, "draw_latents", stops)
    assert main(flags(made, training, out, "--batch", "3")) == 75
    assert "run the same command again" in capsys.readouterr().out
    assert kinds(out) == [(2, "ema"), (2, "raw")] and len(batches) == 5
    first = (out / "track.jsonl").read_bytes()
    main(flags(made, training, out, "--batch", "3"))
    assert kinds(out)[2:] == [(4, "ema"), (4, "raw")]
    assert (out / "track.jsonl").read_bytes().startswith(first)
    # While it waits for a training that has not ended, or not begun.
    before = signal.getsignal(signal.SIGTERM)  # some library may have set its own
    for run in (training, Run(tmp_path / "later", made.vae)):
        handled = lambda: signal.getsignal(signal.SIGTERM) is not before  # noqa: E731
        helper = in_a_while(lambda: os.kill(os.getpid(), signal.SIGTERM), handled)
        assert main(flags(made, run, out, "--follow", "--poll", "60")) == 75
        helper.join()


def test_diverged_weights_have_a_line_without_a_distance(made, training, tmp_path, capsys):
    out = tmp_path / "out"
    training.save(6, scale=float("nan"))
    assert main(flags(made, training, out, "--weights", "raw")) == 0
    assert [line["distance"] is None for line in lines(out)] == [False, False, True]
    assert "DIVERGED" in capsys.readouterr().out
    assert (out / "track.png").exists()


def test_wandb_repeats_the_lines_and_may_fail(
    made, training, tmp_path, monkeypatch, capsys, undrawn
):
    logged: list[tuple[int, dict[str, Any]]] = []
    fake = types.ModuleType("wandb")
    fake.Settings = lambda **_: None  # type: ignore[attr-defined]
    fake.init = lambda **_: types.SimpleNamespace(  # type: ignore[attr-defined]
        log=lambda values, step: logged.append((step, values)),
        finish=lambda exit_code: None,
        define_metric=lambda *_, **__: None,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "out"
    main(flags(made, training, out, "--every", "4"))
    assert [step for step, _ in logged] == [4, 4]
    for (_, values), line in zip(logged, lines(out), strict=True):
        assert values["samples_seen"] == line["samples"]
        assert values[f"track/{line['weights']}/FD-descriptor"] == line["distance"]["value"]
    fake.init = lambda **_: 1 / 0  # type: ignore[attr-defined]
    assert main(flags(made, training, out)) == 0
    assert len(lines(out)) == 4
    assert "W&B failed" in (said := capsys.readouterr().err) and "track.jsonl goes on" in said


def test_what_cannot_be_is_refused(made, training, tmp_path, undrawn):
    out = tmp_path / "out"
    missing = Run(tmp_path / "missing", made.vae)
    with pytest.raises(UserError, match="no run of"):
        main(flags(made, missing, out))
    with pytest.raises(UserError, match=r"--every 3 .*at 2, 4.*--keep-every"):
        main(flags(made, training, out, "--every", "3"))
    with pytest.raises(UserError, match="is the run folder"):
        main(flags(made, training, training.folder))
    with pytest.raises(UserError, match="no such file; make it"):
        main(flags(made, training, out, "--holdout", str(tmp_path / "none.parquet")))
    with pytest.raises(UserError, match="--n 1"):
        main(flags(made, training, out, "--n", "1"))
    with pytest.raises(UserError, match="inside --corpus"):
        main(flags(made, training, made.corpus / "out"))
    assert not (made.corpus / "out").exists() and not out.exists()
