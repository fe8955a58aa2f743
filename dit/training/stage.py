"""A training's stage: a run can be trained on to a larger total of steps.

What a step does is a function of (seed, step, slot), so at a constant rate a run to 40,000 steps is
the beginning of one to 100,000, bit for bit. RUN/totals.json lists the totals that were asked for
before, with the fingerprint of the run where it was finished, and the checkpoints there are kept:
later stages may be of them. Light to import: no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.atomic import write_json
from core.errors import UserError
from core.stage import Stage, digest_of, manifest_path, read_manifest, read_record

_TOTALS = "totals.json"


class TrainingStage(Stage):
    """The stage of a run; its params hold "steps" and "schedule"."""

    def done(self) -> bool:
        if self.started.exists():
            self._compare(self._begun(), self.started)
        if self.manifest.exists():
            manifest = read_manifest(self.out)
            self._compare(manifest, self.manifest)
            if (there := manifest["params"]["steps"]) < self.params["steps"]:
                print(
                    f"[{self.name}] {self.out}: trained to {there:,} steps, to be trained on to "
                    f"{self.params['steps']:,}",
                    flush=True,
                )
                return False
        return super().done()

    def open(self) -> None:
        super().open()
        if self.manifest.exists():
            self._remember(read_manifest(self.out))
        # First what is there, then what is to be: after a kill in between, this is done again.
        self._remember(self._begun())
        write_json(self.started, self._describe())

    def _remember(self, record: Mapping[str, Any]) -> None:
        """Note the total of a manifest.json or a stage.json, if it is an earlier one."""
        steps, known = record["params"]["steps"], earlier_totals(self.out)
        if steps < self.params["steps"] and steps not in [total["steps"] for total in known]:
            known.append({"steps": steps, "fingerprint": record.get("fingerprint")})
            write_json(self.out / _TOTALS, {"earlier": known})

    def _compare(self, found: Mapping[str, Any], where: Path) -> None:
        there, now = (found.get("params") or {}).get("steps"), self.params["steps"]
        as_asked = {**found, "params": {**(found.get("params") or {}), "steps": now}}
        if isinstance(there, int) and there != now and not self._differing(as_asked):
            check_total(self.out, self.params, there)
            return
        super()._compare(found, where)


def check_total(out: Path, params: Mapping[str, Any], there: int) -> None:
    """Raise UserError unless a run to `there` steps is the beginning of one to params["steps"]."""
    now = params["steps"]
    if now < there:
        raise UserError(
            f"--steps {now}: {out} was trained, or begun, to {there:,} steps, and a run is not "
            f"shortened; its checkpoints are in {out / 'checkpoints'}, or choose another --out"
        )
    if now > there and (schedule := params.get("schedule", "constant")) != "constant":
        raise UserError(
            f"--steps {now}: {out} was trained, or begun, to {there:,} steps with --schedule "
            f"{schedule}, whose rate depends on the total, so it is not the beginning of a longer "
            "run; choose another --out (--init starts from its weights)"
        )


def earlier_totals(out: Path) -> list[dict[str, Any]]:
    """Totals that a run was to be trained to before its present one: "steps", and "fingerprint"
    of the run if it was finished, else null. Raises UserError for a damaged file."""
    path = out / _TOTALS
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["earlier"])
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: unreadable ({error}); restore it, or train into another --out"
        ) from None


def run_of(out: Path, params: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """What a run is, as its checkpoints name it: its settings with the first total, and inputs."""
    first = [total["steps"] for total in earlier_totals(out)[:1]]
    named = {**params, "steps": first[0]} if first else dict(params)
    return digest_of({"params": named, "inputs": dict(inputs)})


def has_ended(run: Path) -> bool:
    """Whether a training is finished, and not being trained on to a larger total."""
    manifest = manifest_path(run)
    if not manifest.exists():
        return False
    try:
        begun = read_record(manifest.with_name("stage.json"))
    except FileNotFoundError:
        return True
    return begun.get("params") == read_record(manifest).get("params")
