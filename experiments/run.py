"""Run an experiment of the paper's programme, or say what it would do.

    python -m experiments.run table1 --dry-run
    python -m experiments.run table1 --only corpus=git10m method=rsprune
    python -m experiments.run table1 --slurm -- --default-resources slurm_partition=gpu

experiments/NAME.sh calls this. Finished stages are found again, stopped ones continue, a failed one
stops only what needs it. Words after -- go to Snakemake.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from core.atomic import write_text
from core.command import execute
from core.parallel import available_cpus
from experiments.commands import Job
from experiments.graph import draw
from experiments.grid import load, names, only
from experiments.job import visible_gpus
from experiments.plan import Planned, absolute, command, describe, plan, summary, write
from experiments.profiles import load_profile
from experiments.progress import Progress

SNAKEFILE = Path(__file__).with_name("Snakefile")
# A target is written last and at once, so what there is of a killed job is its own to continue (the
# stage's lock keeps two writers apart); names hold fingerprints, so nothing is ever outdated.
OPTIONS = (
    "--keep-going", "--nolock", "--ignore-incomplete", "--keep-incomplete", "--drop-metadata",
    "--rerun-triggers", "software-env",
)  # fmt: skip

# Made of the records in the end, whether or not all jobs succeeded: cheap, and made again when they
# change.
RENDERINGS = (
    "eval.tables",
    "eval.costs",
    "eval.figures",
    "eval.pictures",
    "eval.publish",
    "eval.dashboard",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m experiments.run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    found.add_argument("experiment", help=", ".join(names()))
    found.add_argument(
        "--profile", default=os.environ.get("PROFILE", ""), help="mini, small or paper"
    )
    found.add_argument(
        "--runs",
        type=Path,
        default=Path(os.environ.get("RUNS", "runs")),
        help="folder of all results (RUNS)",
    )
    found.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="CELL",
        help="CORPUS/SUBSET, or FIELD=VALUE such as method=rsprune: these cells alone",
    )
    found.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plain commands, needs, disk and hours; run nothing",
    )
    found.add_argument(
        "--graph", type=Path, help="also draw the graph of stages into this SVG file"
    )
    found.add_argument("--jobs", type=int, default=0, help="cores to use (default: all)")
    found.add_argument("--slurm", action="store_true", help="submit the jobs to Slurm")
    found.add_argument(
        "engine", nargs="*", metavar="-- SNAKEMAKE", help="further words for Snakemake"
    )
    return found  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 when every cell is there, 1 when some failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    given = parser().parse_args(words[:split])
    engine = words[split + 1 :]
    profile = load_profile(given.profile or "mini")
    experiment = load(given.experiment, profile)
    planned = plan(experiment, profile, given.runs, only(experiment, given.only))
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
        code = max(
            code, subprocess.run([sys.executable, "-m", stage, *words], check=False).returncode
        )
    table = planned.folder / "table.md"
    print(f"Results: {planned.folder} ({table.name}, dashboard.html)")
    return code


def _preflight(planned: Planned) -> int:
    """What the paper profile needs: found or missing, each with its remedy."""
    cells = planned.experiment.cells
    about = planned.profile.references
    named = {cell.reference for cell in cells if cell.reference in about} | {"main"}
    references = sorted({one for name in named for one in about[name].get("of", [name])})
    gigabytes = sum(planned.disk(job) for job in planned.wanted if not job.target.exists())
    words = ["--experiment", *planned.corpora, "--references", *references, "--tasks"]
    words += [task for task in planned.profile.tasks if any(task in cell.tasks for cell in cells)]
    weights = ["sscd"] if any(cell.method == "dinov2" for cell in cells) else []
    if any(job.stage == "dit.train_vae" for job in planned.wanted):
        weights.append("lpips-vgg")  # kl-f8's perceptual loss
    words += ["--weights", *weights]
    encoders = [job for job in planned.wanted if job.stage == "dit.encode"]
    if not any(str(planned.profile.settings["vae"]) in job.argv for job in encoders):
        words += ["--without", "sd-vae"]
    words += ["--holdout", str(planned.profile.settings["holdout"]), "--disk", f"{gigabytes:.0f}"]
    check = [sys.executable, "-m", "data.check", "--profile", "paper", *words]
    return subprocess.run(check, check=False).returncode


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
    print(f"Again after any interruption: {command(planned.experiment, planned.profile)}")
    for line_ in summary(planned)[:2]:
        print(line_)
    print(f"Results: {planned.folder}")
    print(line, flush=True)


def _execute(planned: Planned, given: argparse.Namespace, engine: list[str]) -> int:
    """Have Snakemake make what is missing, and say how far it is."""
    damaged = planned.damaged()
    for job in damaged:
        print(f"{job.out}: a file is missing or truncated; making it again")
    if not damaged and all(job.target.exists() for job in planned.wanted):
        print(f"{len(planned.wanted)} stages: already done, nothing left to do")
        return 0
    for job in planned.wanted:
        planned.log(job).with_suffix(".failed").unlink(missing_ok=True)
    root = planned.folder.parent
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *OPTIONS]
    words += ["--directory", absolute(root), "--config", f"plan={absolute(planned.file)}"]
    words += ["--latency-wait", "60" if given.slurm else "5"]
    cores = given.jobs or available_cpus()
    if given.slurm:
        words += ["--executor", "slurm", "--jobs", str(given.jobs or 100), "--retries", "2"]
    else:
        share = max(1, int(os.environ.get("GPU_SHARE", "1")))
        words += ["--cores", str(cores), "--resources", f"gpu={len(visible_gpus()) * share}"]
    if damaged:
        words += ["--forcerun", *map(_rule, damaged)]
    words += engine
    if len(planned.chosen) < len(planned.cells):
        words += ["--", *map(_rule, planned.wanted)]
    log = planned.folder / "engine.log"
    lock = _alone(planned)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=[lock.fileno()],
        )  # fmt: skip
        lock.close()  # the engine holds it from here on, also when this process is killed
        code = _wait(process, Progress(planned))
    failed = [job for job in planned.wanted if planned.log(job).with_suffix(".failed").exists()]
    if code and not failed:
        print(log.read_text(encoding="utf-8")[-2000:], file=sys.stderr)
        print(
            f"error: the engine stopped (its log: {log}); the same command continues",
            file=sys.stderr,
        )
    return 1 if code else 0


def _rule(job: Job) -> str:
    """The job's name in the Snakefile."""
    return job.id.replace("/", "__")


def _alone(planned: Planned) -> IO[str]:
    """A lock on the experiment, once an engine of it that still runs has ended.

    After a kill of this process the engine that it started goes on.
    """
    lock = (planned.folder / ".engine.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("an engine of this experiment is at work already; waiting for it", flush=True)
        progress = Progress(planned)
        while True:
            progress.look()
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.5)
    return lock


def _wait(process: subprocess.Popen[bytes], progress: Progress) -> int:
    """Until the engine has ended, a line for each job; a signal asks its jobs to stop first."""

    def stop(number: int, _: object) -> None:
        print("stopping: trainings write a checkpoint first", file=sys.stderr, flush=True)
        process.terminate()  # Snakemake starts nothing more, and waits for what runs
        while process.poll() is None:
            time.sleep(0.3)
            progress.stop()
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
