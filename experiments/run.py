"""Run an experiment of the paper's programme, or say what it would do.

    python -m experiments.run table1 --dry-run
    python -m experiments.run table1 --only corpus=git10m method=rsprune
    python -m experiments.run table1 --slurm -- --default-resources slurm_partition=gpu

experiments/NAME.sh calls this. Finished stages are found again, stopped ones continue, a failed one stops
only what needs it. Words after -- go to Snakemake.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from core.atomic import write_text
from core.command import execute
from core.errors import UserError
from core.parallel import available_cpus
from experiments.graph import draw
from experiments.grid import load, names, only
from experiments.job import visible_gpus
from experiments.plan import Planned, absolute, command, describe, plan, summary, write
from experiments.profiles import load_profile
from experiments.progress import Progress

# What is made of the records in the end, whether or not all jobs succeeded: cheap, and made again when they change.
RENDERINGS = ("eval.tables", "eval.costs", "eval.figures", "eval.pictures", "eval.publish", "eval.dashboard")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m experiments.run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("experiment", help=", ".join(names()))
    found.add_argument("--profile", default=os.environ.get("PROFILE", ""), help="mini, small or paper")
    found.add_argument("--runs", type=Path, default=Path(os.environ.get("RUNS", "runs")),
                       help="folder of all results (RUNS)")
    found.add_argument("--only", nargs="+", default=[], metavar="CELL",
                       help="CORPUS/SUBSET, or FIELD=VALUE such as method=rsprune: these cells alone")
    found.add_argument("--dry-run", action="store_true",
                       help="print the plain commands, needs, disk and hours; run nothing")
    found.add_argument("--graph", type=Path, help="also draw the graph of stages into this SVG file")
    found.add_argument("--jobs", type=int, default=0, help="cores to use (default: all)")
    found.add_argument("--slurm", action="store_true", help="submit the jobs to Slurm")
    found.add_argument("engine", nargs="*", metavar="-- SNAKEMAKE", help="further words for Snakemake")
    return found  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when every cell is there, 1 when some failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    given = parser().parse_args(words[:split])
    engine = words[split + 1 :]
    profile = load_profile(given.profile or "mini")
    planned = plan(only(load(given.experiment, profile), given.only), profile, given.runs)
    write(planned)
    if given.graph is not None:
        write_text(given.graph, draw(planned))
        print(f"graph: {given.graph}")
    if given.dry_run:
        print(describe(planned))
        if profile.name == "paper":
            print(flush=True)
            _preflight(planned)
        return 0
    if profile.name == "paper" and (code := _preflight(planned)):
        return code
    _announce(planned)
    code = _execute(planned, given, engine)
    for stage in RENDERINGS:
        if stage == "eval.pictures" and not planned.experiment.pictures:
            continue
        words = [planned.experiment.name, "--profile", profile.name, "--runs", str(given.runs)]
        code = max(code, subprocess.run([sys.executable, "-m", stage, *words], check=False).returncode)
    table = planned.folder / "table.md"
    print(f"Results: {planned.folder} ({table.name}, dashboard.html)")
    return code


def _preflight(planned: Planned) -> int:
    """What the paper profile needs: found or missing, each with its remedy."""
    corpora = sorted({cell.corpus for cell in planned.experiment.cells})
    code = 0
    gb = sum(planned.disk(job) for job in planned.jobs if not job.target.exists())
    for corpus in corpora:
        words = ["--profile", "paper", "--experiment", f"{corpus}_{planned.experiment.name}"]
        words += ["--holdout", str(planned.profile.settings["holdout"]), "--disk", f"{gb:.0f}"]
        done = subprocess.run([sys.executable, "-m", "data.check", *words], check=False)
        code = max(code, done.returncode)
    return code


def _announce(planned: Planned) -> None:
    profile, experiment = planned.profile, planned.experiment
    line = "=" * 80
    print(line)
    if profile.name == "mini":
        print("MINI PROFILE: small models, minutes on a CPU. Its numbers are not the paper's.")
        variables = [profile.corpora[c]["variable"] for c in planned.corpora]
        variables += ["REFERENCE_ROOT", "SECOND_ROOT", "OEM_ROOT"]
        print(f"The real experiment: PROFILE=paper bash experiments/{experiment.name}.sh, with")
        print(f"  {' '.join(variables)} set")
        given = [name for name in variables[: len(planned.corpora)] if os.environ.get(name)]
        for name in variables if given else []:
            if not os.environ.get(name):
                print(f"note: {name} is not set; the miniature world's own stands in for it")
    print(experiment.title)
    print(f"Again after any interruption: {command(planned)}")
    for line_ in summary(planned)[:2]:
        print(line_)
    print(f"Results: {planned.folder}")
    print(line, flush=True)


def _execute(planned: Planned, given: argparse.Namespace, engine: list[str]) -> int:
    """Have Snakemake make what is missing, and say how far it is."""
    damaged = planned.damaged()
    for job in damaged:
        print(f"{job.out}: a file is missing or truncated; making it again")
    if not damaged and all(job.target.exists() for job in planned.jobs):
        print(f"{len(planned.jobs)} stages: already done, nothing left to do")
        return 0
    for job in planned.jobs:
        planned.log(job).with_suffix(".failed").unlink(missing_ok=True)
    root = planned.folder.parent
    words = [
        sys.executable, "-m", "snakemake", "--snakefile", str(Path(__file__).with_name("Snakefile")),
        "--directory", absolute(root), "--config", f"plan={absolute(planned.file)}",
        # A target is written last and at once, so what there is of a killed job is its own to continue
        # (the stage's lock keeps two writers apart); names hold fingerprints, so nothing is ever outdated.
        "--keep-going", "--nolock", "--ignore-incomplete", "--keep-incomplete", "--drop-metadata",
        "--rerun-triggers", "software-env", "--latency-wait", "60" if given.slurm else "5",
    ]  # fmt: skip
    cores = given.jobs or available_cpus()
    if given.slurm:
        words += ["--executor", "slurm", "--jobs", str(given.jobs or 100), "--retries", "2"]
    else:
        share = max(1, int(os.environ.get("GPU_SHARE", "1")))
        words += ["--cores", str(cores), "--resources", f"gpu={len(visible_gpus()) * share}"]
    if damaged:
        words += ["--forcerun", *(job.id.replace("/", "__") for job in damaged)]
    log = planned.folder / "engine.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*words, *engine], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        code = _wait(process, Progress(planned))
    failed = [job for job in planned.jobs if planned.log(job).with_suffix(".failed").exists()]
    if code and not failed:
        print(log.read_text(encoding="utf-8")[-2000:], file=sys.stderr)
        print(f"error: the engine stopped (its log: {log}); the same command continues", file=sys.stderr)
    return 1 if code else 0


def _wait(process: subprocess.Popen[bytes], progress: Progress) -> int:
    """Until the engine has ended, with a line for each job; a signal asks its jobs to stop first."""

    def stop(number: int, _: object) -> None:
        print("stopping: trainings write a checkpoint first", file=sys.stderr, flush=True)
        progress.stop()
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while process.poll() is None:
            progress.look()
            time.sleep(0.3)
        progress.look(last=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return process.returncode


if __name__ == "__main__":
    execute(main)
