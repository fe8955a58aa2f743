#!/usr/bin/env bash
# Table 1: Full, Random, Moderate-DS, Cluster-nearest, DINOv2, A2-MAE-style and RS-Prune at 70 %, on Git-10M and USA-1m:
# generation, super-resolution and semantic synthesis (70 numbers), and Random within Stage I's survivors.
#   PROFILE=mini bash experiments/table1.sh              two worlds in miniature, two cores, about 48 minutes by estimate
#   PROFILE=paper bash experiments/table1.sh --dry-run   needs, disk and GPU-hours of the real one (4 x H100)
#   bash experiments/table1.sh --only corpus=git10m method=rsprune      part of it
# Expect: RS-Prune first in generation FID on both corpora (the paper: 28.46 and 175.93).
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" table1 "$@"
