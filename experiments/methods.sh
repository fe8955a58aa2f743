# Sourced by profile.sh: one function after another, or side by side. Expects PROFILE, METHODS and RUN.

each_method() { # FUNCTION: call it with every method. mini: all at once, each on its part of the cores, because
    # starting Python is most of a small stage's time; the first in the terminal, the others in log files.
    local method seed i log methods=() processes=() status=0
    for method in $METHODS; do
        for seed in ${SEEDS:-0}; do
            if [ "$seed" = 0 ]; then methods+=("$method"); else methods+=("$method-seed$seed"); fi
        done
    done
    if [ "$PROFILE" != mini ] || [ "${#methods[@]}" = 1 ] || [ "$(nproc)" = 1 ]; then
        for method in "${methods[@]}"; do "$1" "$method"; done
        return 0
    fi
    mkdir -p "$RUN/logs"
    export OMP_NUM_THREADS=$((($(nproc) + ${#methods[@]} - 1) / ${#methods[@]}))
    trap 'end_children; exit 130' INT TERM
    for method in "${methods[@]}"; do
        if [ "$method" = "${methods[0]}" ]; then
            "$1" "$method" &
        else
            echo "Beside ${methods[0]} runs $method; its progress: $RUN/logs/$method.log"
            "$1" "$method" >"$RUN/logs/$method.log" 2>&1 &
        fi
        processes+=("$!")
    done
    for i in "${!methods[@]}"; do
        method="${methods[$i]}" log="$RUN/logs/${methods[$i]}.log"
        if [ "$i" != 0 ]; then echo "Waiting for $method; its progress: $log"; fi
        wait "${processes[$i]}" || status=$?
        if [ "$i" != 0 ]; then { if [ "$status" = 0 ]; then tr '\r' '\n' <"$log" | grep ' s -> '; else tail -n 5 "$log"; fi; } || true; fi
        if [ "$status" != 0 ]; then
            echo "error: $method stopped with exit code $status; the same command continues" >&2
            end_children
            return "$status"
        fi
    done
    trap - INT TERM
    unset OMP_NUM_THREADS
}

end_children() { # ask all descendants of this shell to stop (training writes a checkpoint first), and wait
    python - $$ <<'END'
import os, psutil, sys
for child in psutil.Process(int(sys.argv[1])).children(recursive=True):
    if child.pid != os.getpid():
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            pass
END
    wait
}
