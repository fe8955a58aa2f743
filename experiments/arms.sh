# Sourced by profile.sh: one function after another, or side by side. Expects PROFILE, ARMS and RUN.

each_arm() { # FUNCTION: call it with every arm. mini: all at once, each on its share of the cores, because
    # starting Python is most of a small stage's time; the first in the terminal, the others in log files.
    local arm i log arms processes=() status=0
    read -ra arms <<<"$ARMS"
    if [ "$PROFILE" != mini ] || [ "${#arms[@]}" = 1 ] || [ "$(nproc)" = 1 ]; then
        for arm in "${arms[@]}"; do "$1" "$arm"; done
        return 0
    fi
    mkdir -p "$RUN/logs"
    export OMP_NUM_THREADS=$((($(nproc) + ${#arms[@]} - 1) / ${#arms[@]}))
    trap 'end_children; exit 130' INT TERM
    for arm in "${arms[@]}"; do
        if [ "$arm" = "${arms[0]}" ]; then
            "$1" "$arm" &
        else
            echo "Beside ${arms[0]} runs $arm; its progress: $RUN/logs/$arm.log"
            "$1" "$arm" >"$RUN/logs/$arm.log" 2>&1 &
        fi
        processes+=("$!")
    done
    for i in "${!arms[@]}"; do
        arm="${arms[$i]}" log="$RUN/logs/${arms[$i]}.log"
        if [ "$i" != 0 ]; then echo "Waiting for $arm; its progress: $log"; fi
        wait "${processes[$i]}" || status=$?
        if [ "$i" != 0 ]; then { if [ "$status" = 0 ]; then tr '\r' '\n' <"$log" | grep ' s -> '; else tail -n 5 "$log"; fi; } || true; fi
        if [ "$status" != 0 ]; then
            echo "error: $arm stopped with exit code $status; the same command continues" >&2
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
