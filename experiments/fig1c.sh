#!/usr/bin/env bash
# Figure 1c: how many fewer steps RS-Prune needs to reach the best baseline (the paper: 1.9 to 2.1 times), and what it costs.
#   PROFILE=paper bash experiments/fig1c.sh --dry-run    needs, disk and GPU-hours (4 x H100); shares Table 1's trainings
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" fig1c "$@"
