#!/usr/bin/env bash
# Sends the offline W&B files of all runs below runs/ (or FOLDER), oldest first, so that artifacts come before the runs that
# used them; of a run with several folders the newest, which holds the whole run. What was sent already is passed over:
# run it as often as you like. Needs a key: `wandb login`, or WANDB_API_KEY.
#
#   bash scripts/wandb_sync.sh                   # all of runs/
#   bash scripts/wandb_sync.sh runs/paper/table1
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:-$here/runs}"
if [ ! -d "$folder" ]; then echo "error: $folder: no such folder" >&2; exit 2; fi

# offline-run-DATE_TIME-ID: the newest folder of each ID, then these by their times.
declare -A newest=()
found=0
while IFS= read -r run; do
    name="${run##*/}" id="${run##*/offline-run-????????_??????-}"
    found=$((found + 1))
    if [ -z "${newest[$id]:-}" ] || [[ "$name" > "${newest[$id]##*/}" ]]; then newest[$id]="$run"; fi
done < <(find "$folder" -type d -name 'offline-run-????????_??????-*' -prune)
if [ "$found" = 0 ]; then echo "$folder: no offline runs, nothing to send"; exit 0; fi

waiting=() sent=0
while IFS=$'\t' read -r _ run; do
    data=("$run"/run-*.wandb)
    if [ ! -f "${data[0]}" ]; then echo "passed over, without data: $run"; continue; fi
    # What a run has written since it was sent is sent with all of it again.
    if [ -f "${data[0]}.synced" ] && [ ! "${data[0]}" -nt "${data[0]}.synced" ]; then sent=$((sent + 1)); continue; fi
    waiting+=("$run")
done < <(for run in "${newest[@]}"; do printf '%s\t%s\n' "${run##*/}" "$run"; done | sort)
older=$((found - ${#newest[@]}))
echo "$folder: ${#waiting[@]} runs to send, $sent sent before, $older older copies passed over"
if [ "${#waiting[@]}" = 0 ]; then exit 0; fi

host="${WANDB_BASE_URL:-https://api.wandb.ai}" host="${host#*://}" host="${host%%[/:]*}"
if [ -z "${WANDB_API_KEY:-}" ] && ! grep -qs "machine[[:space:]]\+$host\b" "${NETRC:-$HOME/.netrc}"; then
    echo "error: no key for $host: set WANDB_API_KEY, or run 'wandb login'; nothing was sent" >&2
    exit 2
fi
if ! command -v wandb >/dev/null; then source "$here/scripts/env.sh"; fi
failed=0 number=0
for run in "${waiting[@]}"; do
    number=$((number + 1))
    echo "[$number/${#waiting[@]}] $run"
    # WANDB_MODE=offline, with which it was recorded, would keep it from being sent.
    if ! env -u WANDB_MODE wandb sync --include-synced "$run" </dev/null; then
        echo "not sent: $run" >&2
        failed=$((failed + 1))
    fi
done
if [ "$failed" != 0 ]; then
    echo "error: $failed of ${#waiting[@]} runs were not sent; run the same command again" >&2
    exit 1
fi
echo "sent ${#waiting[@]} runs"
