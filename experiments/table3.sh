#!/usr/bin/env bash
# Table 3: pruning ratios of 0, 30, 50, 70, 85 and 90 % on Git-10M and RS5M, generation and semantic synthesis.
#   PROFILE=paper bash experiments/table3.sh --dry-run   needs, disk and GPU-hours (4 x H100); mini: about 30 minutes
# Expect: FID falls up to 85 % and rises again at 90 %.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" table3 "$@"
