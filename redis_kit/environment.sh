# shellcheck shell=bash
# shellcheck disable=SC2034 # PYTHON_IS and SIGNALLED are read by the scripts that source this
# What the shell scripts share: how signals reach a child, and which Python is used.
#
# $PYTHON > the active virtual environment > the conda env bluesky-research > .venv, made by uv
# or python3 > a conda env made now; each only from Python 3.11 on. Sourced, never run. Written
# for bash 3.2, which is what macOS has.

unset CDPATH # or cd would print where it goes
KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ENV_NAME=bluesky-research
CHILD=
SIGNALLED=
PYTHON=${PYTHON:-}
PYTHON_IS=

case "$PYTHON" in # absolute, before anybody changes the folder
*/*) PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/${PYTHON##*/} ;;
esac

say() { printf '%s\n' "$@"; }

fail() {
    printf '❌ %s\n' "$*" >&2
    exit 1
}

# --- Signals ---------------------------------------------------------------------------

# A signal to this script reaches its child once, no matter where it was sent: the child has a
# process group of its own, out of reach of the terminal's Ctrl+C.
run_child() {
    local status=0
    set -m
    "$@" &
    CHILD=$!
    set +m
    wait "$CHILD" || status=$?
    while kill -0 "$CHILD" 2>/dev/null; do # a signal ended the wait, not the child
        status=0
        wait "$CHILD" || status=$?
    done
    CHILD=
    return "$status"
}

# A short piece of Python, which Ctrl+C does not break off: a Python that is just starting would
# answer with a traceback. The signal is heeded right after it.
short_python() { (trap '' INT && cd "$KIT" && exec "$PYTHON" "$@"); }

on_signal() { # exit status
    SIGNALLED=$1
    [ -n "$CHILD" ] || exit "$1"
    kill -s TERM -- "-$CHILD" 2>/dev/null || true # each of our children ends cleanly on SIGTERM
}

listen_for_signals() {
    trap 'on_signal 130' INT
    trap 'on_signal 143' TERM HUP
}

leave_if_signalled() { [ -z "$SIGNALLED" ] || exit "$SIGNALLED"; }

# --- Python ----------------------------------------------------------------------------

is_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

can_install() { command -v uv >/dev/null 2>&1 || "$1" -m pip --version >/dev/null 2>&1; }

is_managed() { # a Python of the operating system, into which nothing should be installed
    "$1" -c 'import os, sys, sysconfig as s; sys.exit(sys.prefix != sys.base_prefix or not
os.path.exists(os.path.join(s.get_path("stdlib"), "EXTERNALLY-MANAGED")))' >/dev/null 2>&1
}

conda_python() { # the Python of the conda env, active or not
    if [ "${CONDA_DEFAULT_ENV:-}" = "$ENV_NAME" ] && [ -n "${CONDA_PREFIX:-}" ]; then
        say "$CONDA_PREFIX/bin/python"
    elif command -v conda >/dev/null 2>&1; then
        conda env list 2>/dev/null | awk -v name="$ENV_NAME" '$1 == name {print $NF "/bin/python"}'
    fi
}

base_python() { # any Python >= 3.11 from which an environment can be made
    local name
    for name in "$PYTHON" python3 python3.14 python3.13 python3.12 python3.11 python; do
        if [ -n "$name" ] && is_python "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# Sets PYTHON to the Python of the environment to use, and PYTHON_IS to a word for people.
choose_python() {
    local found
    if [ -n "$PYTHON" ]; then
        is_python "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or later"
        PYTHON_IS="named by PYTHON"
        is_managed "$PYTHON" || return 0
    elif [ -n "${VIRTUAL_ENV:-}" ] && is_python "$VIRTUAL_ENV/bin/python"; then
        PYTHON=$VIRTUAL_ENV/bin/python PYTHON_IS="the active virtual environment"
        return
    else
        found=$(conda_python)
        if [ -n "$found" ] && is_python "$found"; then
            PYTHON=$found PYTHON_IS="the conda environment $ENV_NAME"
            return
        fi
    fi
    make_environment
}

make_environment() { # .venv by uv or python3, else the conda env
    local venv=$KIT/.venv found unfinished=$KIT/.venv/.kit-unfinished
    if [ -e "$unfinished" ]; then rm -rf "$venv"; fi # an interrupted run left it
    if [ ! -e "$venv" ]; then
        mkdir "$venv" && : >"$unfinished"
        if command -v uv >/dev/null 2>&1; then
            run_child uv venv --quiet --seed --allow-existing --python "${PYTHON:->=3.11}" "$venv" &&
                rm -f "$unfinished"
        fi
        if [ -e "$unfinished" ] && found=$(base_python); then
            # Without ensurepip this fails, and leaves a Python that cannot install behind.
            run_child "$found" -m venv "$venv" && rm -f "$unfinished"
        fi
        leave_if_signalled
        if [ -e "$unfinished" ]; then rm -rf "$venv"; fi
    fi
    if [ -e "$venv" ]; then
        is_python "$venv/bin/python" && can_install "$venv/bin/python" ||
            fail "$venv is no Python 3.11 or later that can install packages: move it away"
        PYTHON=$venv/bin/python PYTHON_IS="the virtual environment .venv"
    elif command -v conda >/dev/null 2>&1 &&
        run_child conda create --yes --quiet --name "$ENV_NAME" 'python>=3.11'; then
        PYTHON=$(conda_python)
        PYTHON_IS="the conda environment $ENV_NAME, made now"
    else
        fail "No Python environment can be made: install Python 3.11 or later with its venv module (Debian: apt install python3-venv), or uv, or conda"
    fi
}

# Installs a requirements file into PYTHON's environment, unless it is there already.
install_requirements() {
    local file=$KIT/$1 stamp quiet=--quiet
    if [ -t 1 ]; then quiet=; fi # on a terminal pip shows how far it is
    stamp=$(short_python -c 'import sys; print(sys.prefix)') || fail "$PYTHON does not run"
    stamp=$stamp/.kit-$(printf %s "$1" | tr '/' '-')
    if cmp -s "$file" "$stamp" && has_packages; then
        say "📦 $1: nothing has changed"
        return
    fi
    rm -f "$stamp" # an interrupted installation must not look finished
    say "📦 Installing $1 (the first time takes a minute)"
    if ! { command -v uv >/dev/null 2>&1 && run_child uv pip install --python "$PYTHON" -r "$file"; }; then
        leave_if_signalled
        run_child "$PYTHON" -m pip install --disable-pip-version-check $quiet -r "$file" || {
            leave_if_signalled
            fail "The packages of $1 cannot be installed into $PYTHON: see above"
        }
    fi
    cp "$file" "$stamp"
}

has_packages() { short_python -m redis_kit.preflight; }
