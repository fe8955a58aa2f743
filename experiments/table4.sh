#!/usr/bin/env bash
# Table 4: what the clusters are of (the corpus, Stage I's survivors, references of 21 and 45 classes, 3 and 5 sets):
# seconds of clustering and FID, at 85 %.
#   UCM_ROOT=... NWPU_ROOT=... AID_ROOT=... WHURS19_ROOT=... RSD46_ROOT=... PROFILE=paper bash experiments/table4.sh --dry-run
# Expect: clusters of the corpus cost most and do worst; the references differ by 2 points of FID, without seeds.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" table4 "$@"
