#!/usr/bin/env bash
# Git-10M pruned by 85 %: RS-Prune and Random, from the raw corpus to a table.
#
#   bash experiments/git10m_85.sh                            mini: the miniature world, offline, on a laptop
#   GIT10M_ROOT=/data/Git-10M REFERENCE_ROOT=/data/NWPU-RESISC45 SECOND_ROOT=/data/SECOND \
#     OEM_ROOT=/data/OpenEarthMap bash experiments/git10m_85.sh  paper: the real thing
#   PROFILE=mini GIT10M_ROOT=... bash experiments/git10m_85.sh   small models on real images
#
# mini  : two CPU cores, about eight and a half minutes, 300 MB. Its numbers show that the river flows, no more.
# paper : 10.5 M images (394 GB), 4 x H100; --dry-run lists hours and disk for each stage.
# Expect: RS-Prune ahead of Random and of full data in FID (the paper: 61.33 at 85 %; its absolute FIDs
#         disagree between its own tables, so compare orderings).
# Run the same command again after any interruption: finished stages are found, others continue.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" git10m_85 "$@"
