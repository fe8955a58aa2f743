#!/usr/bin/env bash
# Table 2: Stage I alone against Stage II after pre-filters of 30, 50 and 70 %, at 85 and 90 %, on Git-10M and RS5M.
#   PROFILE=paper bash experiments/table2.sh --dry-run   needs, disk and GPU-hours (4 x H100); mini: about 30 minutes
# Expect: D30 the best pre-filter; Stage II about 10 % better in FID than Stage I alone on Git-10M, 1 to 2 % on RS5M.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" table2 "$@"
