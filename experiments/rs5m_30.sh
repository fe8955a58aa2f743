#!/usr/bin/env bash
# RS5M (1.04 M images after its filter, of 5.07 M) pruned by 30 %: a DiT, and its fine-tunes for SR and SIS.
#   RS5M_ROOT=... REFERENCE_ROOT=... SECOND_ROOT=... OEM_ROOT=... bash experiments/rs5m_30.sh [--dry-run]
# Without them: mini, on the miniature world. Paper profile: 4 x H100; hours and disk: --dry-run.
# One row of Table 3.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" rs5m_30 "$@"
