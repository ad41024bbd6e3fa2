"""What has to hold before a script's slow imports: packages are there, Ctrl+C just ends.

    python -m redis_kit.preflight      status 0 if every package of requirements.txt is there

Needs nothing installed itself.
"""

import os
import signal
import sys
from importlib.util import find_spec

PACKAGES = ("redis", "hiredis", "polars", "pyarrow", "pytest", "libipld", "orjson")


def missing_packages():
    return [name for name in PACKAGES if find_spec(name) is None]


def check():
    """End with one line if packages are missing; until main() listens, Ctrl+C ends silently."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stdout.reconfigure(errors="replace")  # an ASCII terminal shows ? for an emoji
    missing = missing_packages()
    if missing:
        sys.exit(
            f"❌ {sys.executable} has no {', '.join(missing)}: activate the kit's environment "
            "(source .venv/bin/activate), or pip install -r requirements.txt"
        )


if __name__ == "__main__":
    sys.exit(bool(missing_packages()))
