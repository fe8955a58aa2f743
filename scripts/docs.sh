#!/usr/bin/env bash
# The documentation site, from docs/ and the docstrings, into site/ (or `bash scripts/docs.sh serve` to look at it while writing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
RSPRUNE_EXTRAS=docs
source scripts/env.sh
export NO_MKDOCS_2_WARNING=1
if [ "${1:-}" = serve ]; then exec python -m mkdocs serve; fi
exec python -m mkdocs build --strict "$@"
