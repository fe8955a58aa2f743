#!/usr/bin/env bash
# Figure 3: FID against training steps for several methods and ratios (the paper: about 50K steps to the others' best at 100K).
#   PROFILE=paper bash experiments/fig3.sh --dry-run     needs, disk and GPU-hours (4 x H100); shares other tables' trainings
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" fig3 "$@"
