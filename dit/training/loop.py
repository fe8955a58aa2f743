"""The training loop: DiT on latents, the same on a CPU, one GPU or several.

What a step sees is a function of (seed, step, slot), see dit.training.order; each process takes
equally many slots, so the global batch, and with it the mean loss and gradient, are the same on
any number of processes. A killed run continues from its newest checkpoint, on a CPU bit for bit.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch import Tensor, nn
from tqdm import tqdm

from core.atomic import write_json
from core.errors import UserError
from core.progress import progress
from core.settings import science
from core.stage import DoneElsewhere, Result, Stage, digest_of
from dit.diffusion.gaussian import Diffusion
from dit.model.ema import Ema
from dit.training import checkpoint
from dit.training.config import TrainConfig
from dit.training.meter import Meter, Speed, log_line
from dit.training.network import Network, prepare
from dit.training.order import BatchPlan, Source, batch_indices, plan_batch
from dit.training.processes import RUN_AGAIN, stop_signals
from dit.training.runlog import RunLog
from dit.training.stage import check_total, earlier_totals, run_of
from dit.training.tracking import wandb_mode

PATIENCE = 10  # non-finite steps in a row that end a run
_LOOK_EVERY = 10  # steps between looks at a GPU's counters: a look makes the host wait
_TERMS = ("loss", "mse", "vb")

SampleHook = Callable[[nn.Module, int], Path]
"""Draws samples with the averaged weights at a step and returns the picture's path."""


def train(
    config: TrainConfig,
    model: nn.Module,
    source: Source,
    out: Path,
    stage: Stage,
    extra_state: Mapping[str, Any],
    on_sample: SampleHook | None = None,
) -> Result:
    """Train `model` on `source` to config.steps, from the run folder's newest checkpoint if any.

    Args:
        config: the recipe and the machine settings.
        model: called as model(x_t, t, **what source.load gives beside x0); the same initial
            weights on every process.
        source: the latents.
        out: the run folder, stage.out.
        stage: not yet opened; its manifest ends the run.
        extra_state: for state.json; must hold "model": {"class": ...} (dit.training.checkpoint).
        on_sample: called on the main process every config.sample_every steps.

    Returns the stage's result; its exit code is RUN_AGAIN when SIGTERM or SIGUSR1 stopped the run
    after a checkpoint.
    Raises UserError for settings that do not fit and after ten non-finite steps in a row.
    """
    wandb_mode()  # a mode that there is not is refused before anything is written
    accelerator = _accelerator(config)
    device, main = accelerator.device, accelerator.is_main_process
    mine, micro = _slots(config, accelerator.process_index, accelerator.num_processes)
    if (n := len(source.keys)) == 0:
        raise UserError(f"{out}: nothing to train on, the latents are empty")
    newest = _open(stage, out, accelerator)
    stay = [total["steps"] for total in earlier_totals(out)]

    parameters = sum(p.numel() for p in model.parameters())
    if config.recompute:
        model.gradient_checkpointing = True  # type: ignore[assignment]
    shard = config.shard or accelerator.distributed_type == DistributedType.FSDP
    network = prepare(model.train(), accelerator, shard=shard, compiled=config.compile)
    diffusion = Diffusion()
    weights = list(network.parameters.values())
    optimizer = torch.optim.AdamW(
        weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    ema = Ema(network.parameters, config.ema_decay, config.ema_warmup)
    meter = Meter(device)

    start = 0
    if newest is not None:
        start = _resume(newest, network, optimizer, ema, meter)
        accelerator.print(f"[{stage.name}] continuing from step {start:,} ({newest})", flush=True)

    def save(done: int) -> None:
        state = {
            "samples": done * config.batch,
            **extra_state,
            "latent": dict(source.describe()),
            "config": science(config),
            "run": run_of(out, stage.params, stage.inputs),
            "meter": meter.state(),
        }
        tensors = _complete_tensors(network, ema, optimizer)
        if main:
            checkpoint.save_checkpoint(
                out, done, tensors, state, config.keep, config.keep_every, stay
            )

    def load(step: int) -> list[dict[str, Tensor]]:
        plan = plan_batch(config.seed, step, config.batch, n, mine, config.flip)
        pin = device.type == "cuda"
        try:
            return [_micro_batch(source, part, len(diffusion), pin) for part in plan.split(micro)]
        except UserError as error:
            if not main:  # perhaps its slots alone are to blame, and the main process never knows
                print(f"error: {error}", file=sys.stderr, flush=True)
            raise

    precision, processes = accelerator.mixed_precision, accelerator.num_processes
    log = None
    if main:
        session = {
            "processes": processes,
            "device": str(device),
            "precision": precision,
            "micro_batch": micro,
            "sharded": network.shared_by_all,
        }
        log = RunLog(out, dataclasses.asdict(config), start, session, stage)
    before = log.last.get("timing", {}).get("seconds", 0.0) if log else 0.0
    speed = Speed(config, extra_state["model"], device, precision, processes, before, start)
    bar = progress(total=config.steps, initial=start, name="train", unit="step", disable=not main)
    stopping = False
    with ThreadPoolExecutor(1) as ahead, stop_signals() as asked, bar:
        coming = ahead.submit(load, start)
        for step in range(start, config.steps):
            done = step + 1
            with speed.waiting():
                batches = coming.result()
            if done < config.steps:
                coming = ahead.submit(load, done)

            # Forward and backward over equal micro batches: the mean over this process's slots.
            totals = torch.zeros(len(_TERMS) + 1, device=device)
            for i, host in enumerate(batches):
                inputs = {name: v.to(device, non_blocking=True) for name, v in host.items()}
                last = i == len(batches) - 1
                with network.accumulating(last):
                    terms = diffusion.training_losses(network, **inputs)
                    accelerator.backward(terms["loss"].mean() / len(batches))
                means = [terms[name].detach().mean() for name in _TERMS]
                totals[:-1] += torch.stack(means) / len(batches)
            if asked.is_set():
                totals[-1] = 1.0  # travels with the losses, so that all processes stop at once
            if processes > 1:
                totals = accelerator.reduce(totals, "mean")

            # Not finite: left out on all processes alike. Where found_inf is 1, the fused
            # optimizer changes nothing, and the host need not know.
            norm = network.gradient_norm()
            if config.clip:
                torch.nn.utils.clip_grads_with_norm_(weights, config.clip, norm)
            bad = ~(totals[0].isfinite() & norm.isfinite())
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            optimizer.param_groups[0]["lr"] = config.rate(done)
            optimizer.step()
            network.clear_gradients()
            ema.update(done)
            meter.add(totals, norm, bad)
            bar.update()
            stage.count(config.batch // processes)
            if step == start:
                accelerator.print(f"[{stage.name}] {speed.first_step(config.compile)}", flush=True)

            stopping = asked.is_set() and processes == 1
            if device.type == "cpu" or done % _LOOK_EVERY == 0:
                bad_in_a_row, elsewhere = meter.look()
                stopping = stopping or elsewhere
                if bad_in_a_row >= PATIENCE:
                    _give_up(out, config, source, range(done - bad_in_a_row, done), main)
            if done % config.log_every == 0 or done == config.steps:
                line = meter.line(done, config, n, ema.decay_at(done))
                timing = speed.interval(done)
                if log is not None:
                    log.write({**line, "timing": timing})
                    tqdm.write(log_line(line, timing, config.steps))
            takes_part = main or network.shared_by_all
            sampling = bool(config.sample_every) and done % config.sample_every == 0
            if on_sample and sampling and takes_part:
                with ema.applied():
                    picture = on_sample(model.eval(), done)
                model.train()
                if log is not None:
                    log.logger.image(picture, done)
            due = done % config.checkpoint_every == 0 or done == config.steps
            if (stopping or due) and takes_part:
                save(done)
            if stopping and done < config.steps:
                break
        else:
            stopping = False

    if not main:
        stage.close()  # its costs are written before the main process sums them
    accelerator.wait_for_everyone()
    result = Result(out, exit_code=RUN_AGAIN if stopping else 0)
    if log is not None:
        log.close(result.exit_code)
        if stopping:
            where = f"[{stage.name}] stopped at step {done:,} of {config.steps:,}"
            print(f"{where} as asked; run the same command again to continue", flush=True)
            stage.close()
        else:
            result = _finish(stage, out, config, log.last, parameters)
    accelerator.end_training()
    return result


def _accelerator(config: TrainConfig) -> Accelerator:
    precision = config.precision
    if precision == "auto":
        gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        cpu_asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        precision = "bf16" if gpu and not cpu_asked else "fp32"
    handlers = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        # The others wait while the main process writes a checkpoint or draws samples.
        InitProcessGroupKwargs(timeout=datetime.timedelta(hours=2)),
    ]
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=handlers,
        # Said here, since a launcher's setting would divide the loss once more.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )


def _slots(config: TrainConfig, rank: int, processes: int) -> tuple[slice, int]:
    """This process's slots of the global batch, and the micro batch."""
    count, rest = divmod(config.batch, processes)
    if rest:
        raise UserError(f"--batch {config.batch} does not divide among {processes} processes")
    micro = config.per_device or count
    if count % micro:
        raise UserError(
            f"--per-device {micro} does not divide a process's part of the batch "
            f"({config.batch} / {processes} = {count})"
        )
    return slice(rank * count, (rank + 1) * count), micro


def _open(stage: Stage, out: Path, accelerator: Accelerator) -> Path | None:
    """Take the run folder and find its newest complete checkpoint, the same on all processes."""
    found: list[Any] = [None, None, False]
    if accelerator.is_main_process:
        try:
            _check_run(stage, out)  # before stage.json binds the folder to these settings
            stage.open()
            checkpoint.clear(out)  # a run killed in its last checkpoint writes no other
            found[0] = checkpoint.latest(out)
        except UserError as error:
            found[1] = str(error)
        except DoneElsewhere:
            found[2] = True
    broadcast_object_list(found)
    if found[2]:
        raise DoneElsewhere
    if found[1] is not None:
        raise UserError(found[1])
    if not accelerator.is_main_process:
        stage.keep_ledger()
    return found[0]


def _check_run(stage: Stage, out: Path) -> None:
    """Raise UserError when the newest checkpoint that can be read is of other settings."""
    for path in reversed(checkpoint.checkpoints(out)):
        try:
            state = checkpoint.read_state(path)
        except checkpoint.Damaged:
            continue  # `latest` will say so
        begun = state["config"]["steps"]
        as_begun = digest_of({"params": {**stage.params, "steps": begun}, "inputs": stage.inputs})
        if state["run"] not in (as_begun, run_of(out, stage.params, stage.inputs)):
            there, now = state["config"], stage.params
            differing = [
                f"{name}: {there[name]} there, {now[name]} now"
                for name in sorted(set(there) & set(now))
                if there[name] != now[name]
            ]
            raise UserError(
                f"{path}: belongs to another run ({'; '.join(differing) or 'of other inputs'}); "
                "choose another --out"
            )
        check_total(out, stage.params, begun)
        return


def _micro_batch(source: Source, part: BatchPlan, steps: int, pin: bool) -> dict[str, Tensor]:
    """What training_losses takes beside the model: x0, t, noise and the source's extras."""
    inputs = source.load(part)
    inputs["t"] = torch.from_numpy(part.timesteps(steps))
    inputs["noise"] = part.noise(inputs["x0"].shape[1:])
    return {k: v.pin_memory() if pin and v.device.type == "cpu" else v for k, v in inputs.items()}


def _complete_tensors(
    network: Network, ema: Ema, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds; of sharded weights all processes must ask together."""
    raw = {name: network.complete(name, value) for name, value in network.state().items()}
    average = {name: network.complete(name, value) for name, value in ema.average.items()}
    moments = checkpoint.optimizer_tensors(optimizer, network.parameters)
    return {
        "model": raw,
        "ema": {**raw, **average},
        "optimizer": {
            key: network.complete(key.partition(".")[2], value) for key, value in moments.items()
        },
    }


def _resume(
    path: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    meter: Meter,
) -> int:
    """Restore everything that a step depends on; returns the steps finished."""
    state = checkpoint.read_state(path)
    network.load(checkpoint.load_tensors(path, "model"))
    average = checkpoint.load_tensors(path, "ema")
    ema.load({name: network.part(name, average[name]) for name in network.parameters})
    moments = checkpoint.load_tensors(path, "optimizer")
    checkpoint.restore_optimizer(moments, optimizer, network.parameters, network.part)
    meter.load(state["meter"])
    return int(state["step"])


def _give_up(out: Path, config: TrainConfig, source: Source, steps: range, main: bool) -> None:
    path = out / "nonfinite.json"
    if main:
        n = len(source.keys)
        seen = {s: batch_indices(config.seed, s, config.batch, n).tolist() for s in steps}
        keys = {s + 1: [source.keys[i] for i in indices] for s, indices in seen.items()}
        write_json(path, {"why": "loss or gradient not finite", "keys_by_step": keys})
    raise UserError(
        f"{out}: loss or gradient was not finite in {len(steps)} steps in a row, to step "
        f"{steps.stop:,}; the samples they saw are in {path}. Look at those; or train into another "
        "--out with --clip 1, a lower --learning-rate or --precision fp32"
    )


def _finish(
    stage: Stage, out: Path, config: TrainConfig, last: Mapping[str, Any], parameters: int
) -> Result:
    folder = checkpoint.folder_of(out, config.steps)
    names = [*checkpoint.read_state(folder)["files"], "state.json"]
    if last.get("step") != config.steps:  # the line was written before the checkpoint
        last = {"loss": None}
    summary = {
        "checkpoint": str(folder.relative_to(out)),
        "parameters": parameters,
        "step": config.steps,
        "samples": config.steps * config.batch,
        **{k: last.get(k) for k in ("epochs", "loss", "skipped", "timing")},
    }
    if earlier := earlier_totals(out):
        summary["earlier"] = earlier
    if last["loss"] is not None:
        end = f"{summary['samples']:,} samples, last loss {last['loss']:.4f}"
    else:
        end = "the last ones not finite" if "step" in last else "their last line was lost"
    return stage.finish(
        summary,
        [folder.relative_to(out) / name for name in names],
        f"{config.steps:,} steps, {end}",
    )
