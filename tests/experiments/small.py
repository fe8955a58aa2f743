"""A plan of trivial commands, for the engine: real Snakemake, real job.py, no training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from core.atomic import write_json

ROOT = Path(__file__).resolve().parent.parent.parent


def job(
    folder: Path, name: str, *needs: str, seconds: float = 0.0, fails: bool = False, **about: Any
) -> dict[str, Any]:
    """A job that appends a line to FOLDER/NAME/began, waits, and writes its target last."""
    out = folder / name
    code = (
        "import pathlib, sys, time;"
        f"out = pathlib.Path({str(out)!r}); out.mkdir(parents=True, exist_ok=True);"
        "stream = open(out / 'began', 'a'); stream.write('x'); stream.close();"
        f"time.sleep({seconds}); sys.exit('broken on purpose') if {fails} else None;"
        "(out / 'manifest.json').write_text('{}')"
    )
    return {
        "id": name, "stage": "prune.score", "out": str(out), "target": str(out / "manifest.json"),
        "needs": list(needs), "argv": ["python", "-c", code],
        "log": str(folder / "logs" / f"{name}.log"),
        "cells": ["cell"], "tags": ["git10m"], "gpus": 0, "cpus": 1, "memory_gb": 2.0,
        "gpu_hours": 0.0, "cpu_hours": 0.0, "disk_gb": 0.0, **about,
    }  # fmt: skip


def write_plan(folder: Path, jobs: list[dict[str, Any]]) -> Path:
    """FOLDER/plan.json of these jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    write_json(path, {"format": 1, "experiment": "small", "root": str(ROOT), "jobs": jobs})
    return path


def engine(plan: Path, *words: str, path: str = "") -> subprocess.Popen[str]:
    """Snakemake on the plan, started as experiments.run starts it."""
    from experiments.run import OPTIONS, SNAKEFILE

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path + os.environ["PATH"]}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *OPTIONS]
    command += ["--directory", str(plan.parent), "--config", f"plan={plan}", *words]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def began(folder: Path, name: str) -> int:
    """How often the job was started."""
    note = folder / name / "began"
    return len(note.read_text()) if note.exists() else 0
