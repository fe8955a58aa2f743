#!/usr/bin/env bash
# USA-1m (8.77 M NAIP chips) pruned by 70 %: a row of Table 1. 40K steps where Git-10M has 100K.
#   USA1M_ROOT=... REFERENCE_ROOT=... SECOND_ROOT=... OEM_ROOT=... bash experiments/usa1m_70.sh [--dry-run]
# Red, green and blue of the four bands are read. Paper profile: 4 x H100; hours and disk: --dry-run.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" usa1m_70 "$@"
