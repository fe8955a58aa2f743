#!/usr/bin/env bash
# The main job, every stage of it, shrunk to three minutes on two cores; then once more, and nothing is redone.
# Arguments: none. Exit code 0 when a stage was neither left out, nor failed, nor was made again.
#
#   bash scripts/smoke.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh

job=(experiments/git10m_85.sh experiments/profile.sh experiments/stages.sh)
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export RUN="$work/run" WANDB_MODE=disabled MPLBACKEND=Agg PROFILE=mini
export TILES=300 HOLDOUT=16 CLUSTERS=8 WHITEN=8 VAE=train VAE_STEPS=10 STEPS=20 TUNE_STEPS=10 SEGMENTER_STEPS=5
unset GIT10M_ROOT REFERENCE_ROOT SECOND_ROOT OEM_ROOT

fail() {
    echo "error: smoke: $1" >&2
    exit 1
}

run() { # NAME: the job, its output in a file
    local begun=$SECONDS
    bash "${job[0]}" >"$work/$1.log" 2>&1 || {
        tail -n 40 "$work/$1.log" "$RUN"/logs/*.log >&2 || true
        fail "the $1 run ended with an error"
    }
    echo "$1 run: $((SECONDS - begun)) s"
}

files() { # every file of the run but its logs: when it was written, how long it is; the manifests by content
    find "$RUN" -path "$RUN/logs" -prune -o -type f -printf '%P %s %T@\n' | sort
    find "$RUN" -name '*manifest.json' | sort | xargs sha256sum
}

run first
# Every command that the scripts call has left a manifest, but for the preflight, which only looks.
called="$(grep -ohE '(python -m|launch) [a-z]+\.[a-z_]+' "${job[@]}" | awk '{print $NF}' | sort -u | grep -vx data.check)"
made="$(find "$RUN" -name '*manifest.json' -exec grep -ohE '"stage": "[^"]+"' {} + | cut -d'"' -f4 | sort -u)"
[ "$called" = "$made" ] || fail "stages called and stages made differ: $(diff <(echo "$called") <(echo "$made"))"
grep -qE '\[eval.table\] ([0-9]+) of \1 cells filled' "$work/first.log" || fail "the table is not full"
files >"$work/before"

run second
files >"$work/after"
diff "$work/before" "$work/after" >&2 || fail "the second run wrote files"
! grep -H ' s -> ' "$work/second.log" "$RUN"/logs/*.log || fail "the second run made a stage again"
echo "smoke: $(echo "$made" | wc -l) stages, nothing redone; $SECONDS s"
