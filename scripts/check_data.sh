#!/usr/bin/env bash
# What of the data is here: for each variable (GIT10M_ROOT, UCM_ROOT, SECOND_ROOT, GIT_RSCLIP, ...) what is
# found, what is missing and what is odd. With nothing set: every data set, and what to do. Exit code 1 when
# something that a variable names is missing, or when no variable is set.
#
#   bash scripts/check_data.sh
#   UCM_ROOT=/data/UCM NWPU_ROOT=/data/NWPU bash scripts/check_data.sh
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# A look needs little: any Python >= 3.11 with yaml will do, without setting up .venv for it.
for python in "${RSPRUNE_PYTHON:-}" "$here/.venv/bin/python" python python3; do
    if [ -n "$python" ] && "$python" -c 'import sys, yaml; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m data.check "$@"
    fi
done
source "$here/scripts/env.sh"
exec python -m data.check "$@"
