"""Execute one job of a plan: its command with the GPUs that are free, its log, what became of it.

    python -m experiments.job PLAN ID [CORES]

The engine calls this, here or on a node of a cluster. Starts fast: the standard library alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

# These share their work out over the processes of a launch, one to a GPU.
LAUNCHED = {
    "prune.embed", "dit.train_vae", "dit.encode", "dit.train", "dit.sample", "downstream.train",
    "downstream.evaluate",
    "eval.evaluate", "eval.loss",
}  # fmt: skip
# Exit codes of a job that ended as asked: no failure. 75: a checkpoint is written, run me again.
STOPPED = {0, 75, 130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGUSR1}
COMPILED = {"dit.train", "dit.train_vae", "downstream.train"}


def main(argv: list[str]) -> int:
    """Run the job; the exit code is the command's."""
    plan = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    job = next(job for job in plan["jobs"] if job["id"] == argv[1])
    cores = int(argv[2]) if len(argv) > 2 else job["cpus"]
    os.chdir(plan["root"])
    log = Path(job["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    running, failed = log.with_suffix(".running"), log.with_suffix(".failed")
    failed.unlink(missing_ok=True)
    running.write_text(f"{platform.node()} {os.getpid()}\n")
    locks: list[IO[str]] = []
    try:
        gpus = _take_gpus(job["gpus"], locks)
        with log.open("a", encoding="utf-8") as output:
            command = _command(job, gpus)
            print(f"$ {' '.join(command)}", file=output, flush=True)
            code = _run(command, _environment(plan, job, gpus, cores), output)
    finally:
        running.unlink(missing_ok=True)
        for lock in locks:
            lock.close()
    if code == 0 and Path(job["target"]).name.endswith(".txt"):
        Path(job["target"]).parent.mkdir(parents=True, exist_ok=True)
        Path(job["target"]).write_text(f"{job['id']}\n")
    if code not in STOPPED:
        failed.write_text(f"{code}\n")
    return code


def _command(job: dict[str, Any], gpus: list[str]) -> list[str]:
    """The plain command, or the same under accelerate on several GPUs."""
    command = [sys.executable, *job["argv"][1:]]
    wanted = gpus and job["stage"] in COMPILED and os.environ.get("COMPILE", "yes") == "yes"
    if wanted and shutil.which(os.environ.get("CC", "gcc")):  # torch.compile needs a C compiler
        command.append("--compile")
    if len(gpus) < 2 or job["stage"] not in LAUNCHED:
        return command
    # The trainer sets precision and compilation itself.
    launch = [
        "-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes",
        str(len(gpus)),
        "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port",
        "0",
    ]  # fmt: skip
    return [sys.executable, *launch, *command[1:]]


def _environment(
    plan: dict[str, Any], job: dict[str, Any], gpus: list[str], cores: int
) -> dict[str, str]:
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(cores))
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    environment |= {
        "WANDB_RUN_GROUP": plan["experiment"], "WANDB_JOB_TYPE": job["stage"],
        "WANDB_TAGS": ",".join(job["tags"]), "WANDB_NAME": job["id"],
    }  # fmt: skip
    environment.pop("WANDB_DIR", None)  # each run's files lie in its own folder
    return environment


def _run(command: list[str], environment: dict[str, str], output: IO[str]) -> int:
    """The command's exit code; a signal to this process is passed on, and waited for."""
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def pass_on(number: int, _: object) -> None:
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, pass_on)
    return process.wait()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU")]
    return [str(number) for number in range(len(lines))]


def _take_gpus(number: int, locks: list[IO[str]]) -> list[str]:
    """So many of the visible GPUs, each held by a lock until the job ends; waits for them.

    GPU_SHARE jobs may hold one GPU together. On a cluster the scheduler has chosen already.
    """
    visible = visible_gpus()
    if not number or not visible:
        return []
    number = min(number, len(visible))
    if "SLURM_JOB_ID" in os.environ:
        return visible[:number]
    share = max(1, int(os.environ.get("GPU_SHARE", "1")))
    while True:
        taken: list[str] = []
        for slot in range(share):
            for gpu in visible:
                if gpu in taken or len(taken) == number:
                    continue
                name = f"rs-prune-{os.getuid()}-gpu{gpu}-{slot}.lock"
                lock = open(Path(tempfile.gettempdir()) / name, "w")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    lock.close()
                    continue
                locks.append(lock)
                taken.append(gpu)
        if len(taken) == number:
            return taken
        for held in locks:  # two jobs that each hold a part would wait for each other
            held.close()
        locks.clear()
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
