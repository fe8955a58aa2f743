"""A small plan with the records of its jobs, in the formats that the commands write.

    maker = PlanMaker(tmp_path)
    maker.family("git10m/rsprune-70", "rsprune", value=60.0)
    maker.family("git10m/random-70", "random", stop={"train": "failed"})
    plan = read_plan(maker.write())

`small_plan` is one with a few cells: done, failed, running and missing. Values are functions of
what is asked for, so that tests can say which numbers they expect.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from core.stage import Result, Stage, fingerprint, manifest_path
from data.formats.index import write_index
from eval.programme.plan import Plan, plan_file, read_plan
from tests.eval.formats import (
    HOLDOUTS,
    generation_metrics,
    loss_metrics,
    pair_metrics,
    reconstruction_metrics,
    track_lines,
)

ENCODER = {"name": "descriptor", "dim": 502, "weights": "none (colour-texture-1)"}

# part of a run -> its stage, the parts that it reads, GPU-hours
PARTS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "scores": ("prune.score", (), 0.0),
    "reference": ("prune.embed", (), 0.1),
    "holdout": ("data.holdout", ("scores",), 0.0),
    "embeddings": ("prune.embed", ("scores", "holdout"), 0.5),
    "centroids": ("prune.centroids", ("reference",), 0.0),
    "assignments": ("prune.assign", ("embeddings", "centroids"), 0.0),
    "subset": ("prune.select", ("scores", "holdout", "assignments"), 0.0),
    "encode": ("dit.encode", ("subset",), 0.5),
    "train": ("dit.train", ("encode",), 8.0),
    "samples": ("dit.sample", ("train",), 1.0),
    "generation": ("eval.evaluate", ("samples", "holdout", "subset"), 0.25),
    "reconstruction": ("eval.reconstruction", ("holdout",), 0.1),
    "loss": ("eval.loss", ("train", "holdout", "subset"), 0.25),
    "track": ("eval.track", ("train", "holdout"), 1.0),
    "sr-train": ("downstream.train", ("train",), 2.0),
    "sr-images": ("downstream.evaluate", ("sr-train",), 0.5),
    "sr": ("eval.evaluate", ("sr-images", "subset"), 0.25),
    "sis-train": ("downstream.train", ("train",), 2.0),
    "sis-images": ("downstream.evaluate", ("sis-train",), 0.5),
    "sis": ("eval.evaluate", ("sis-images", "subset"), 0.25),
}
SHARED = ("scores", "reference", "holdout", "reconstruction")  # by all methods on a corpus
FILES = {
    "holdout": "holdout.parquet", "subset": "subset.parquet", "generation": "metrics.json",
    "reconstruction": "metrics.json",
    "loss": "metrics.json", "sr": "metrics.json", "sis": "metrics.json",
}  # fmt: skip
NEEDED_FOR = {
    "generation": ("samples", "generation"), "loss": ("loss",), "track": ("track",),
    "sr": ("sr-train", "sr-images", "sr"), "sis": ("sis-train", "sis-images", "sis"),
    "clustering": ("reference", "embeddings", "centroids", "assignments"),
}  # fmt: skip


class PlanMaker:
    """Makes RUNS/PROFILE/EXPERIMENT/plan.json under `root`, and the records of finished jobs."""

    def __init__(
        self,
        root: Path,
        experiment: str = "table1",
        profile: str = "mini",
        *,
        kind: str = "table",
        paper_tables: Sequence[str] = ("Table 1",),
        corpora: Mapping[str, str] | None = None,
    ) -> None:
        self.runs = root / "runs"
        self.experiment, self.profile = experiment, profile
        self.kind, self.paper_tables = kind, tuple(paper_tables)
        self.corpora = dict(corpora or {"git10m": str(root / "world" / "corpus")})
        self.cells: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self._states: dict[str, str] = {}

    def family(
        self,
        name: str,
        method: str,
        *,
        corpus: str = "git10m",
        label: str | None = None,
        ratio: float = 0.7,
        keep: float = 0.3,
        reference: str = "single, 45 classes",
        clusters: int = 48,
        reduce: int = 0,
        steps: int = 2000,
        paper: Mapping[str, Any] | str | None = "auto",
        tasks: Sequence[str] = ("generation", "loss", "sr", "sis"),
        seeds: Sequence[int] = (0,),
        rules: Sequence[str] = (),
        stop: Mapping[str, str] | None = None,
        value: float = 4.0,
        seconds: float = 2.0,
        judge: str = "EfficientNetLite0",
        infrared: bool = False,
    ) -> PlanMaker:
        """Add a cell family with its jobs.

        Args:
            paper: 'auto' is Table 1's key of this corpus, method and ratio.
            rules: further checkpoint rules, as 'best-test', of SR and SIS.
            stop: part -> running, failed or missing, of seed 0; what needs it is missing.
            value: of the distances of seed 0 (seed s has `value` + s); LPIPS a hundredth of it.
            seconds: that each job took.
            judge: 'FID' for Inception's names.
            infrared: of a corpus of four bands.
        """
        if paper == "auto":
            of = 0.0 if method == "full" else ratio
            paper = {"corpus": corpus, "method": method, "ratio": of}
        runs = []
        for seed in seeds:
            wanted = {*SHARED, "subset", "encode", "train"}
            wanted |= {part for task in tasks for part in NEEDED_FOR[task]}
            wanted -= set() if infrared else {"reconstruction"}
            jobs = {part: "" for part in PARTS if part in wanted}
            for task in ("sr", "sis"):
                for rule in rules if task in tasks else ():
                    jobs |= {f"{task}-images:{rule}": "", f"{task}:{rule}": ""}
            how = {"name": name, "corpus": corpus, "method": method, "seed": seed, "ratio": ratio,
                   "keep": keep, "clusters": clusters, "reduce": reduce, "steps": steps,
                   "value": value + seed, "seconds": seconds, "judge": judge,
                   "infrared": infrared}  # fmt: skip
            for part in jobs:
                jobs[part] = self._job(part, how, jobs, (stop or {}) if seed == seeds[0] else {})
            runs.append({"seed": seed, "jobs": jobs})
        self.cells.append({
            "name": name, "label": label or method, "corpus": corpus, "method": method,
            "ratio": ratio, "keep": keep, "reference": reference, "clusters": clusters,
            "reduce": reduce, "steps": steps, "paper": paper, "tasks": list(tasks), "runs": runs,
            "command": f"{self._command()} --only {name}",
        })  # fmt: skip
        return self

    def _command(self) -> str:
        return f"PROFILE={self.profile} bash experiments/{self.experiment}.sh"

    def write(self) -> Path:
        """Write plan.json; its path."""
        path = plan_file(self.experiment, self.profile, self.runs)
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = {
            "format": 1, "experiment": self.experiment, "title": f"The paper's {self.experiment}",
            "profile": self.profile, "kind": self.kind, "paper_tables": list(self.paper_tables),
            "folder": str(path.parent), "root": str(self.runs.parent), "holdout": 200,
            "command": self._command(),
            "corpora": self.corpora, "cells": self.cells, "jobs": list(self.jobs.values()),
        }  # fmt: skip
        path.write_text(json.dumps(plan, indent=1))
        return path

    def out(self, cell: str, part: str, seed: int = 0) -> Path:
        """Where a job writes, finished or not."""
        (family,) = (found for found in self.cells if found["name"] == cell)
        (run,) = (found for found in family["runs"] if found["seed"] == seed)
        return Path(self.jobs[run["jobs"][part]]["out"])

    def _job(
        self, part: str, how: Mapping[str, Any], parts: Mapping[str, str], stop: Mapping[str, str]
    ) -> str:
        """The id of a job, added with its record unless it is there."""
        head, _, rule = part.partition(":")
        stage, reads, hours = PARTS[head]
        where = f"{how['corpus']}-{head}"
        if head not in SHARED:
            where = f"{how['name'].replace('/', '-')}-{head}" + f"-{rule}" * bool(rule)
            where += f"-seed{how['seed']}" * bool(how["seed"])
        name = f"{stage}/{where}"
        if name in self.jobs:
            cells = self.jobs[name]["cells"]
            cells += [how["name"]] * (how["name"] not in cells)
            return name
        folder = self.runs / self.profile / "stages" / stage / where
        out = folder / FILES[head] if head in FILES else folder
        log = self.runs / self.profile / "logs" / f"{name.replace('/', '-')}.log"
        needs = [parts[f"{p}:{rule}" if f"{p}:{rule}" in parts else p] for p in reads if p in parts]
        target = out / "track.done" if head == "track" else manifest_path(out)
        self.jobs[name] = {
            "id": name, "stage": stage, "out": str(out), "target": str(target), "needs": needs,
            "argv": ["python", "-m", stage, "--out", str(out)], "log": str(log),
            "cells": [how["name"]], "gpus": int(hours > 0), "cpus": 2, "memory_gb": 1.0,
            "gpu_hours": hours, "cpu_hours": 0.1, "disk_gb": 0.01,
        }  # fmt: skip
        state = stop.get(part, "done")
        if any(self._states[need] != "done" for need in needs):
            state = "missing"
        self._states[name] = state
        log.parent.mkdir(parents=True, exist_ok=True)
        if state == "running":
            log.write_text("step 100\n")
            log.with_suffix(".running").write_text(f"{platform.node()} {os.getpid()}")
        elif state == "failed":
            log.write_text("step 100\nerror: CUDA out of memory\n")
            log.with_suffix(".failed").write_text("2")
        elif state == "done":
            log.write_text(f"[{stage}] made\n")
            inputs = {p: str(fingerprint(self.jobs[need]["out"]))
                      for p, need in zip(reads, needs, strict=False)}  # fmt: skip
            _record(head, rule or "last", stage, out, how, inputs)
            if head == "track":
                target.write_text("done")
        return name


def _record(
    head: str, rule: str, stage: str, out: Path, how: Mapping[str, Any], inputs: dict[str, str]
) -> None:
    """What a finished job leaves: its files, and its manifest."""
    value, name = how["value"], how["judge"]
    params: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    files: dict[str, Any] = {}
    if head in ("scores", "reference", "embeddings"):
        rows = {"scores": 2600, "reference": 520, "embeddings": 780}[head]
        summary = {"rows": rows} if head == "scores" else {
            "encoder": ENCODER, "dim": 502, "rows": rows, "parts": 1, "pool": 2600,
        }  # fmt: skip
        files["part-00000.parquet"] = pa.table({"key": [f"{n:02}.png" for n in range(24)]})
    elif head == "holdout":
        params = {"n": 200, "seed": 0, "holdouts": list(HOLDOUTS), "informative_keep": 0.3}
        summary = {"held": 358, "pool": 2600}
        files[out.name] = pa.table({"key": ["00.png"]})
    elif head == "centroids":
        params = {"clusters": how["clusters"], "seed": 0, "restarts": 5, "whiten": 0,
                  "reduce": how["reduce"]}  # fmt: skip
        summary = {"clusters": how["clusters"], "dim": how["reduce"] or 502, "rows": 520,
                   "objective": 0.3, "iterations": 9, "converged": True,
                   "encoder": ENCODER}  # fmt: skip
        files["centroids.npy"] = np.zeros((2, 2), np.float32)
    elif head == "assignments":
        summary = {"rows": 780, "clusters": how["clusters"], "similarity": 0.6, "encoder": ENCODER}
        files["part-00000.parquet"] = pa.table({"key": [f"{n:02}.png" for n in range(12, 24)]})
    elif head == "subset":
        params = {"method": how["method"], "ratio": how["ratio"], "keep": how["keep"]}
        summary = {"method": how["method"], "params": params, "inputs": inputs, "encoder": None,
                   "counts": {"N": 2600, "B": 390}, "copies": 0, "code": "test"}  # fmt: skip
        files[out.name] = _index(summary)
    elif head == "encode":
        summary = {"images": 390}
        files["latents-00000.npy"] = np.zeros((2, 2), np.float32)
    elif head in ("train", "sr-train", "sis-train"):
        steps = how["steps"] if head == "train" else 200
        params = {"steps": steps, "batch": 32, "learning_rate": 0.002, "seed": how["seed"],
                  "model": "DiT-mini/2"}  # fmt: skip
        if head != "train":
            del params["model"]
            params["task"] = head.removesuffix("-train")
        summary = {"checkpoint": f"checkpoints/step-{steps:07}", "parameters": 1278112,
                   "step": steps, "samples": 32 * steps, "epochs": 164.1, "loss": 0.065,
                   "skipped": 0}  # fmt: skip
        stats = [{"step": step, "samples": 32 * step, "epochs": step / 12, "loss": 1.0 / step,
                  "mse": 0.9 / step, "vb": 0.1 / step, "grad_norm": 0.5, "lr": 0.002,
                  "ema_decay": 0.995, "skipped": 0,
                  "timing": {"seconds": step / 20, "images_per_s": 477.0, "data_wait": 0.0002,
                             "mfu": None, "memory_gib": 0.877, "eta_s": 1.0}}
                 for step in range(steps // 10, steps + 1, steps // 10)]  # fmt: skip
        files["stats.jsonl"] = "".join(json.dumps(line) + "\n" for line in stats)
        files["config.json"] = json.dumps(params)
    elif head == "samples":
        params = {"weights": "ema", "n": 200, "sampler": "ddim", "steps": 25, "seed": 0,
                  "class_label": -1, "guidance": 1.0, "guided_channels": 0}  # fmt: skip
        summary = {"n": 200, "latent_shape": [4, 8, 8], "image_size": 16}
        files = {f"{n:06}.png": _picture(8 * n) for n in range(30)}
    elif head in ("sr-images", "sis-images"):
        task = head.removesuffix("-images")
        params = {"task": task, "split": "test" if task == "sr" else "val", "weights": "ema",
                  "sampler": "ddim", "steps": 20, "seed": 0}  # fmt: skip
        if rule != "last":
            params["checkpoint"] = rule
        summary = {"task": task, "n": 120, "step": 200, "image_size": 16}
        grey = {"condition": 50, "generated": 100, "target": 200}
        files = {f"{part}/{n}.png": _picture(g) for part, g in grey.items() for n in range(9)}
    elif head == "track":
        lines = track_lines(value, name)
        out.mkdir(parents=True, exist_ok=True)
        (out / "track.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        described = {"stage": stage, "params": {"n": 200}, "inputs": inputs}
        (out / "stage.json").write_text(json.dumps(described))
        return  # a track is never finished for good
    else:
        made = {
            "generation": lambda: generation_metrics(value, name, infrared=how["infrared"]),
            "reconstruction": lambda: reconstruction_metrics(value, name),
            "loss": lambda: loss_metrics(value / 100),
        }.get(head, lambda: pair_metrics(head, value - 0.5 * (rule != "last"), name, rule))()
        summary = {"result": made}
        files[out.name] = json.dumps(made)
    _finish(out, stage, params, inputs, summary, files, how["seconds"])


def _finish(
    out: Path,
    stage: str,
    params: dict[str, Any],
    inputs: dict[str, str],
    summary: dict[str, Any],
    files: dict[str, Any],
    seconds: float,
) -> Result:
    """Write the files and, by the stage itself, the manifest."""
    made = Stage(out, stage, params, inputs)
    with mock.patch("core.stage.code_version", lambda: "test"):
        made.open()
        for name, content in files.items():
            path = made.manifest.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            elif isinstance(content, pa.Table):
                pq.write_table(content, path)
            elif isinstance(content, Image.Image):
                content.save(path)
            elif isinstance(content, np.ndarray):
                np.save(path, content)
            else:
                content(path)
        result = made.finish(summary, list(files), "made")
    manifest = json.loads(made.manifest.read_text())
    manifest["made"]["seconds"] = seconds
    cost = {"seconds": seconds, "cpu_seconds": 2 * seconds, "gpus": 0, "gpu_hours": None,
            "images": 200, "images_per_s": 200 / seconds, "peak_memory_gb": 0.5,
            "peak_gpu_memory_gb": None, "energy_kwh": None, "sessions": 1}  # fmt: skip
    manifest["made"]["cost"] = cost
    made.manifest.write_text(json.dumps(manifest, indent=1))
    return result


def _picture(grey: int, side: int = 16) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), grey, np.uint8))


def _index(summary: dict[str, Any]) -> Any:
    chosen = [14, 20, 23]
    rows = pa.table({
        "key": [f"{n:02}.png" for n in chosen], "shard": ["files-00000"] * 3, "row": chosen,
        "digest": ["0" * 64] * 3, "entropy": [n / 4 for n in chosen], "cluster": [0] * 3,
        "similarity": [0.5] * 3, "rank": [0, 1, 2], "chosen": ["quota"] * 3,
    })  # fmt: skip
    return lambda path: write_index(path, rows, {k: v for k, v in summary.items() if k != "copies"})


def small_plan(root: Path, profile: str = "mini") -> Plan:
    """Table 1 with two methods done, one of them with two seeds and a track; Full failed in its
    training, DINOv2 runs, Moderate-DS is not begun."""
    maker = PlanMaker(root, profile=profile)
    both = ("generation", "loss", "track", "sr", "sis")
    maker.family("git10m/rsprune-70", "rsprune", label="Ours (RS-Prune)", tasks=both,
                 seeds=(0, 1), rules=("best-test",), value=4.0)  # fmt: skip
    maker.family("git10m/random-70", "random", label="Random", tasks=both, value=5.0)
    maker.family("git10m/full", "full", label="Full data", stop={"train": "failed"})
    maker.family("git10m/dinov2-70", "dinov2", label="DINOv2", stop={"train": "running"})
    maker.family("git10m/moderate-70", "moderate", label="Moderate-DS", stop={"subset": "missing"})
    return read_plan(maker.write())
