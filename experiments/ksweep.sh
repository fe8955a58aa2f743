#!/usr/bin/env bash
# K, the number of clusters, at 85 %: the paper's text speaks of a best range that none of its tables shows.
#   PROFILE=paper bash experiments/ksweep.sh --dry-run   needs, disk and GPU-hours (4 x H100)
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" ksweep "$@"
