#!/usr/bin/env bash
# The main job, every stage of it, shrunk to three minutes on two cores; then once more, and nothing is redone. Then that
# of four bands. Arguments: none. Exit code 0 when a stage was neither left out, nor failed, nor was made again.
#
#   bash scripts/smoke.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export RUNS="$work/runs" WANDB_MODE=disabled MPLBACKEND=Agg PROFILE=mini
export TILES=300 HOLDOUT=16 CLUSTERS=8 WHITEN=8 VAE=train VAE_STEPS=10 STEPS=20 TUNE_STEPS=10 SEGMENTER_STEPS=5
export VAE_STEPS_USA1M=10
unset GIT10M_ROOT USA1M_ROOT REFERENCE_ROOT SECOND_ROOT OEM_ROOT

fail() {
    echo "error: smoke: $1" >&2
    exit 1
}

run() { # NAME EXPERIMENT: the job, its output in a file
    local begun=$SECONDS
    folder="$RUNS/mini/$2"
    bash "experiments/$2.sh" >"$work/$1.log" 2>&1 || {
        tail -n 60 "$work/$1.log" >&2
        fail "the $1 run ended with an error"
    }
    echo "$1 run: $((SECONDS - begun)) s"
}

files() { # every stage's files: when written, how long; the manifests by content. The plan and the engine's notes go by.
    find "$RUNS/mini" \( -path "$RUNS/mini/.snakemake" -o -path "$RUNS/mini/logs" -o -path "$folder" \) -prune \
        -o -type f -printf '%P %s %T@\n' | sort
    find "$RUNS" -name '*manifest.json' | sort | xargs sha256sum
}

complete() { # NAME PICTURE...: every stage of the plan has left a manifest, and every page that is made in the end is there
    local made
    python - "$folder/plan.json" <<'END' || fail "stages are missing"
import json, sys
from pathlib import Path

jobs = json.loads(Path(sys.argv[1]).read_text())["jobs"]
missing = [job["id"] for job in jobs if not Path(job["target"]).exists()]
print(f"{len(jobs)} stages of {len({job['stage'] for job in jobs})} kinds; missing: {missing or 'none'}")
sys.exit(bool(missing))
END
    for made in table.md table.tex table.csv costs.md dashboard.html "${@:2}"; do
        [ -s "$folder/$made" ] || fail "no $made"
    done
    grep -qE '\[eval.tables\] ([0-9]+) of \1 cells filled' "$work/$1.log" || fail "the table is not full"
}

run first git10m_85
complete first pictures/samples.png
files >"$work/before"

run second git10m_85
files >"$work/after"
diff "$work/before" "$work/after" >&2 || fail "the second run wrote files"
grep -q 'already done, nothing left to do' "$work/second.log" || fail "the second run made a stage again"
echo "smoke: nothing redone; $SECONDS s"

METHODS=rsprune run four-bands usa1m_70
complete four-bands pictures/samples.png pictures/samples-infrared.png
echo "smoke: $SECONDS s"
