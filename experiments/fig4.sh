#!/usr/bin/env bash
# Figure 4: FID against the share of highest entropy that is kept (the paper: 61.69 for all, 32.86 for the top 30 % at 60K).
#   PROFILE=paper bash experiments/fig4.sh --dry-run     needs, disk and GPU-hours (4 x H100)
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" fig4 "$@"
