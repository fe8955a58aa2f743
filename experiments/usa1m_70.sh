#!/usr/bin/env bash
# USA-1m (8.77 M NAIP chips) pruned by 70 %: a row of Table 1. 40K steps where Git-10M has 100K.
#   USA1M_ROOT=... REFERENCE_ROOT=... SECOND_ROOT=... OEM_ROOT=... bash experiments/usa1m_70.sh [--dry-run]
#   bash experiments/usa1m_70.sh                              mini: a miniature world in four bands, offline
#   USA1M_ROOT=/data/naip PROFILE=mini bash experiments/usa1m_70.sh   small models on your NAIP; a few rasters will do
# Four bands from the tiles to a VAE trained from scratch to generated near infrared; SR and SIS, whose data are RGB, by
# --bands auto. The paper's columns are measured on red, green and blue; near infrared has a section of the table.
# Paper profile: 4 x H100; hours and disk: --dry-run. VAE_USA1M=FOLDER takes a four-band VAE that is there.
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" usa1m_70 "$@"
