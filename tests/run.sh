#!/usr/bin/env bash
# Run the tests: makes the environment, starts its own servers on free ports, ends them again.
#
#   tests/run.sh                     everything, in a few minutes
#   tests/run.sh -k stranger         arguments go to pytest
#   tests/run.sh -m fault --times 20   each fault twenty times
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=redis_kit/environment.sh
. redis_kit/environment.sh

listen_for_signals
choose_python
say "🐍 Python: $PYTHON ($PYTHON_IS)"
install_requirements requirements.txt
install_requirements tests/requirements.txt
unset REDIS_URL # the tests use servers of their own only
status=0
run_child "$PYTHON" -m pytest -n 3 --dist loadgroup "$@" || status=$?
leave_if_signalled
exit "$status"
