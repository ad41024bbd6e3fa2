#!/usr/bin/env bash
# Check, install, start a server, test it, run the load test, show the results.
#
#   ./run_load_test.sh [--keep-server] [any flag of jetstream_load_test.py]
#
#   ./run_load_test.sh                                     5,000 events in about 100 seconds
#   ./run_load_test.sh --rate 0                            the same as fast as it goes
#   ./run_load_test.sh --redis-url redis://HOST:6379/0     on a server of yours
#
# Nothing but bash and Python 3.11 (or uv, or conda) needs to be there. The machine is left as
# it was found: what this script starts, it stops, unless --keep-server is given. Its exit
# status is the load test's, or 1 with the name of the step that failed, or 130 after Ctrl+C
# (143 after SIGTERM), when the results are not shown. Paths in flags are relative to the kit.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# shellcheck source=start_local.sh
. ./start_local.sh

KEEP_SERVER=
STEP=
STEP_TIMES=
ARGS=()

parse_arguments() {
    local argument previous=
    for argument in "$@"; do
        if [ "$previous" = --redis-url ]; then REDIS_URL=$argument; fi
        previous=$argument
        case "$argument" in
        --keep-server) KEEP_SERVER=yes && continue ;;
        --help | -h) show_help || true && exit 0 ;;
        --redis-url=*) REDIS_URL=${argument#--redis-url=} ;;
        esac
        ARGS+=("$argument")
    done
    if [ -n "${REDIS_URL:-}" ]; then export REDIS_URL; fi
}

show_help() {
    local python
    sed -n '2,15s/^# \{0,1\}//p' run_load_test.sh
    for python in "$PYTHON" .venv/bin/python python3; do
        if [ -n "$python" ] && "$python" -m redis_kit.preflight 2>/dev/null; then
            say && "$python" jetstream_load_test.py --help | sed '1,/^$/d'
            return
        fi
    done
    say "" "(The load test's own flags are shown here once its packages are installed.)"
}

step() { # number, name, command...
    local began=$SECONDS status=0
    STEP=$2
    say "" "── $1/6 $2"
    shift 2
    "$@" || status=$?
    if [ "$STEP" != "load test" ] || [ "$status" -ne 3 ]; then leave_if_signalled; fi
    STEP_TIMES="$STEP_TIMES $STEP $((SECONDS - began))s,"
    return "$status"
}

# --- The steps --------------------------------------------------------------------------

check() {
    report Docker "$(docker info --format 'engine {{.ServerVersion}}' 2>/dev/null | grep 'engine .' || true)" "no engine"
    report Compose "$(find_compose && say "$COMPOSE" || true)" "not usable"
    report conda "$(conda --version 2>/dev/null || true)" "not found"
    report "conda env" "$(conda_python)" "no $ENV_NAME"
    report uv "$(uv --version 2>/dev/null || true)" "not found"
    report Python "$(base_python || true)" "none from 3.11 on"
    report "Redis on PATH" "$(command -v redis-server || command -v valkey-server || true)" "none"
    report "Port 6379" "$(port_state)" ""
    report "Will use" "$(planned_python), $(planned_server)" ""
}

planned_python() {
    if [ -n "$PYTHON" ]; then
        say "$PYTHON"
    elif [ -n "${VIRTUAL_ENV:-}" ]; then
        say "$VIRTUAL_ENV"
    elif [ -n "$(conda_python)" ]; then
        say "the conda environment $ENV_NAME"
    else
        say "an environment in .venv"
    fi
}

planned_server() {
    if [ -n "${REDIS_URL:-}" ]; then
        say "the server that you named"
    elif ! noted_container && [ -e "$NOTE" ]; then
        say "the server that is noted in data/server.url, if it still runs"
    elif find_compose; then
        say "Redis in a container"
    elif command -v redis-server || command -v valkey-server; then
        return
    else
        say "the embedded server"
    fi
}

report() { # what, what was found, what to say otherwise
    printf '   %-16s %s\n' "$1" "${2:-$3}"
}

port_state() {
    if (exec 3<>/dev/tcp/127.0.0.1/6379) 2>/dev/null; then say "taken"; else say "free"; fi
}

install() {
    choose_python
    say "🐍 Using $PYTHON ($PYTHON_IS)"
    install_requirements requirements.txt
}

start() {
    start_server
    case "$SERVER_IS" in
    given) say "✅ The server that REDIS_URL or --redis-url names; none is started" ;;
    running) say "✅ $REDIS_URL was running already; it will be left running" ;;
    *) say "✅ $REDIS_URL ($SERVER_IS)" ;;
    esac
    export REDIS_URL
}

show_results() {
    short_python -m redis_kit.results ${ARGS[@]+"${ARGS[@]}"}
    say "" "⏱️ $STEP_TIMES $SECONDS s in all"
}

leave() { # also after a failure and after Ctrl+C
    local status=$?
    trap '' INT TERM HUP
    case "$SERVER_IS" in
    container | process)
        if [ -n "$KEEP_SERVER" ] && [ -e "$NOTE" ]; then
            say "🔌 The server keeps running at $REDIS_URL; end it with ./start_local.sh --stop"
        else
            stop_own_server || true
        fi
        ;;
    esac
    if [ "$status" -ne 0 ] && [ -z "$SIGNALLED" ] && [ "$STEP" != "load test" ]; then
        printf '❌ Step "%s" failed\n' "$STEP" >&2
        status=1
    fi
    exit "$status"
}

main() {
    local status=0
    parse_arguments "$@"
    listen_for_signals
    trap leave EXIT
    step 1 check check
    step 2 install install
    STEP="load test" # whose flags these are; a wrong one is said before a server is started
    short_python -c 'from redis_kit.settings import parse_settings; parse_settings("")' ${ARGS[@]+"${ARGS[@]}"}
    step 3 "server start" start
    step 4 "server test" run_child "$PYTHON" test_redis_server.py
    step 5 "load test" run_child "$PYTHON" jetstream_load_test.py ${ARGS[@]+"${ARGS[@]}"} || status=$?
    case "$status" in
    0 | 3 | 130 | 143) step 6 results show_results ;;
    esac
    STEP="load test"
    return "$status"
}

main "$@"
