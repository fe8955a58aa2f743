#!/usr/bin/env bash
# Fetch a data set or weights, or print how to get them by hand; without a name, list them all.
#
#   bash scripts/download.sh
#   bash scripts/download.sh ucm --out /data/UCM
#
# Cut anywhere, the same command continues. Checksums are compared where they are published.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$here/scripts/env.sh"
exec python -m data.download "$@"
