#!/usr/bin/env bash
# The door that every script here goes through: the environment, then python -m experiments.run.
#
#   bash experiments/run.sh table1 [--dry-run] [--only CELL ...] [--slurm] [--help]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -n "${RUN:-}" ]; then echo "note: RUN=$RUN has no effect: RUNS is the folder of all results (default: runs)" >&2; fi
if [ -z "${PROFILE:-}" ]; then # paper where the experiment's corpus is named, else the miniature world
    case "$1" in
    rs5m_*) root="${RS5M_ROOT:-}" ;;
    usa1m_*) root="${USA1M_ROOT:-}" ;;
    *) root="${GIT10M_ROOT:-}" ;;
    esac
    if [ -n "$root" ]; then export PROFILE=paper; else export PROFILE=mini; fi
fi
if [ "$PROFILE" != paper ]; then RSPRUNE_EXTRAS="${RSPRUNE_EXTRAS:-mini}"; fi # a judge that comes in a package
source scripts/env.sh
exec python -m experiments.run "$@"
