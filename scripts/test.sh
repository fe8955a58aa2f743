#!/usr/bin/env bash
# The tests. Arguments go to pytest: `bash scripts/test.sh tests/prune -k kmeans`.
#   bash scripts/test.sh --fast    without the slow ones: every room, in under a minute
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RSPRUNE_EXTRAS=dev
source scripts/env.sh

lane=()
if [ "${1:-}" = --fast ]; then
    shift
    lane=(-m "not slow")
fi
python -m ruff check .
# One torch thread a worker: two workers that each take all cores run slower than one.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" WANDB_MODE=disabled MPLBACKEND=Agg
python -m pytest -n "${TEST_WORKERS:-2}" --dist worksteal ${lane[@]+"${lane[@]}"} "$@"
