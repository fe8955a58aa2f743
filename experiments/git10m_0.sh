#!/usr/bin/env bash
# Git-10M in full, nothing pruned: a DiT, and its fine-tunes for SR and SIS.
#   GIT10M_ROOT=... REFERENCE_ROOT=... SECOND_ROOT=... OEM_ROOT=... bash experiments/git10m_0.sh [--dry-run]
# Without them: mini, on the miniature world. Paper profile: 4 x H100; hours and disk: --dry-run.
# One row of Table 3, and of Table 1 (Git-10M).
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" git10m_0 "$@"
