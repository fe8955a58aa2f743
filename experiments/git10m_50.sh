#!/usr/bin/env bash
# Git-10M (10.5 M images) pruned by 50 %: a DiT, and its fine-tunes for SR and SIS.
#   GIT10M_ROOT=... REFERENCE_ROOT=... SECOND_ROOT=... OEM_ROOT=... bash experiments/git10m_50.sh [--dry-run]
# Without them: mini, on the miniature world. Paper profile: 4 x H100; hours and disk: --dry-run.
# One row of Table 3.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" git10m_50 "$@"
