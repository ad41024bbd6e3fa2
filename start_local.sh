#!/usr/bin/env bash
# Find or start a Redis server for the kit, and leave it running.
#
#   ./start_local.sh            the last line says where:  REDIS_URL=redis://127.0.0.1:6379/0
#   ./start_local.sh --status   where is it?
#   ./start_local.sh --stop     end it
#
# It ends nothing that it did not start, and frees no port by ending its owner.
# run_load_test.sh sources this file for its functions.
set -euo pipefail

# shellcheck source=redis_kit/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/redis_kit/environment.sh"

# --- The server ------------------------------------------------------------------------

NOTE=$KIT/data/server.url # where the server is, and what of it is ours

kit_server() { short_python -m redis_kit.server "$@"; }

# Sets COMPOSE to the Compose that works, as words; status 1 without a Docker engine.
find_compose() {
    COMPOSE=
    command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1 || return 1
    if docker compose version >/dev/null 2>&1; then
        COMPOSE="docker compose"
    elif command -v docker-compose >/dev/null 2>&1; then
        COMPOSE=docker-compose
    else
        return 1
    fi
}

compose() { (cd "$KIT" && $COMPOSE "$@"); }

noted_container() { [ "$(sed -n 2p "$NOTE" 2>/dev/null)" = container ]; }

container_runs() { find_compose && [ -n "$(compose ps -q redis 2>/dev/null)" ]; }

# Sets REDIS_URL, and SERVER_IS to: given, running, container or process.
start_server() {
    if [ -n "${REDIS_URL:-}" ]; then
        SERVER_IS=given
        return
    fi
    # Where the container is, is asked of Docker: by now a stranger may answer at a noted port.
    if noted_container; then rm -f "$NOTE"; fi
    if REDIS_URL=$(kit_server status 2>/dev/null); then
        SERVER_IS=running
        return
    fi
    if find_compose && start_container; then
        return
    fi
    SERVER_IS=process # which stop_own_server ends only if it was started for this script
    REDIS_URL=$(kit_server start --for "$$") || fail "No server could be started"
}

start_container() {
    local port
    if container_runs && port=$(compose port redis 6379 2>/dev/null) && [ -n "$port" ]; then
        SERVER_IS=running
        REDIS_URL=$(kit_server note-container "${port##*:}")
        return
    fi
    port=${REDIS_PORT:-$(kit_server free-port 6379)}
    mkdir -p "$KIT/data/redis"
    SERVER_IS=container # known before it starts, so that Ctrl+C meanwhile ends it
    say "🐳 Starting the container on port $port; waiting up to 30 s"
    if ! REDIS_PORT=$port REDIS_UID=$(id -u) REDIS_GID=$(id -g) run_child compose up -d redis; then
        leave_if_signalled
        say "⚠️  The container cannot be started (see above); going on without Docker."
    elif kit_server wait "$port"; then
        REDIS_URL=$(kit_server note-container "$port")
        return
    else
        say "⚠️  The container does not answer; the end of its log:"
        compose logs --tail 15 redis || true
    fi
    compose down >/dev/null 2>&1 || true
    SERVER_IS=
    return 1
}

# Ends the server that is noted as ours, be it a process or a container.
stop_server() {
    if noted_container; then
        find_compose || fail "Docker does not answer: the container is left as it is"
        stop_container
    else
        kit_server stop
    fi
}

stop_container() { compose down && rm -f "$NOTE" && say "🛑 Stopped the container"; }

# Ends what start_server started for this very script, and nothing that was there before.
stop_own_server() {
    case "$SERVER_IS" in
    container) stop_container ;;
    process) kit_server stop --only-for "$$" ;;
    esac
}

SERVER_IS=

# --- The command -----------------------------------------------------------------------

main() {
    case "${1:-}" in
    "" | --status | --stop) ;;
    --help | -h)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        return
        ;;
    *) fail "Unknown argument $1: try --help" ;;
    esac
    listen_for_signals
    trap abandon EXIT
    if [ -n "${1:-}" ]; then
        PYTHON=$(base_python) || fail "No Python 3.11 or later was found"
        if [ "$1" = --stop ]; then stop_server; else kit_server status; fi
        return
    fi
    choose_python
    say "🐍 Python: $PYTHON ($PYTHON_IS)"
    install_requirements requirements.txt
    start_server
    case "$SERVER_IS" in
    given) say "✅ REDIS_URL is set: that server is used, none was started" ;;
    running) say "✅ A server of ours is running already" ;;
    *) say "✅ Redis is ready ($SERVER_IS); end it with ./start_local.sh --stop" ;;
    esac
    READY=yes
    say "REDIS_URL=$REDIS_URL"
}

READY=
abandon() { # a server that was being started when something went wrong
    if [ -z "$READY" ]; then stop_own_server || true; fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
fi
