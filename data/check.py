"""What of the data is here: for each variable what is found, what is missing and what is odd.

    UCM_ROOT=/data/UCM NWPU_ROOT=/data/NWPU python -m data.check
    GIT10M_ROOT=... REFERENCE_ROOT=... python -m data.check --profile paper --experiment git10m_85

With a profile: everything that it needs (GPU, data, weights, disk), each with its remedy. Looks
only: downloads and writes nothing.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from core.command import execute
from core.errors import UserError
from data.setup.check import Finding, check
from data.setup.paper import check_reference, paper_needs
from data.sources.registry import sources

__all__ = ["run"]


def run(profile: str | None = None, **needs: Any) -> int:
    """Print the list. Exit code 1: something named is missing, nothing is named, or something that
    the profile needs is not there. `needs`: see data.setup.paper.paper_needs."""
    if profile is not None:
        print(f"What the {profile} profile needs:")
        findings = paper_needs(**needs)
        _show(findings)
        lacking = sum(not finding.ready for finding in findings)
        if lacking:
            print(f"{lacking} of {len(findings)} missing; nothing was started.")
            print("What each data set is and how to get it: bash scripts/check_data.sh")
            print("Without them: PROFILE=mini runs small models, offline, on a CPU (same command).")
        else:
            print("Everything is there.")
        return 1 if lacking else 0
    findings = [*map(check, sources().values()), check_reference()]
    for kind in dict.fromkeys(finding.kind for finding in findings):
        print(f"{kind}:")
        _show([finding for finding in findings if finding.kind == kind])
    counts = Counter(finding.state for finding in findings)
    states = ("found", "odd", "missing", "not set")
    print(", ".join(f"{counts[state]} {state}" for state in states) + ".")
    if counts["not set"] == len(findings):
        print("Nothing is set: export the variables of what you have, and look again.")
        print("Without any of it: bash experiments/git10m_85.sh runs a miniature world, offline.")
    return 1 if counts["missing"] or counts["not set"] == len(findings) else 0


def _show(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"  [{finding.state:>7}] {finding.name:<16} {finding.there}")
        for note in finding.notes:
            print(textwrap.fill(
                note, 100, initial_indent=" " * 14 + "- ", subsequent_indent=" " * 16,
                break_on_hyphens=False, break_long_words=False,
            ))  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line, read by the standard library's own parser: see data.setup.check."""
    parser = argparse.ArgumentParser(
        prog="python -m data.check", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--profile", choices=["paper"], help="list what this profile needs")
    parser.add_argument("--experiment", nargs="+", default=["git10m_85"], metavar="CORPUS",
                        help="corpora, or an experiment that begins with one: git10m_85")
    parser.add_argument("--holdout", type=int, default=5000, help="evaluation images set aside")
    parser.add_argument("--references", nargs="+", default=["main"],
                        help="main (REFERENCE_ROOT), ucm, nwpu, aid, whurs19, rsd46")
    parser.add_argument("--tasks", nargs="*", default=["sr", "sis"], help="sr, sis")
    parser.add_argument("--weights", nargs="*", default=[], help="further weights: sscd, lpips-vgg")
    parser.add_argument("--without", nargs="*", default=[],
                        help="weights that are not needed: sd-vae, where the VAE is trained")
    parser.add_argument("--disk", type=float, default=None, help="GB that are needed")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    given = parser().parse_args(argv)
    if given.holdout < 1:
        raise UserError(f"--holdout {given.holdout}: must be at least 1")
    return run(
        given.profile, corpora=given.experiment, holdout=given.holdout, disk=given.disk,
        references=given.references, tasks=given.tasks, weights=given.weights,
        without=given.without,
    )  # fmt: skip


if __name__ == "__main__":
    execute(main)
