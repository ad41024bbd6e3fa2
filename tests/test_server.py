"""A server of ours is found, started and ended; one of somebody else's is left alone."""

import os
import socket
import subprocess
import sys
import time

import pytest

from conftest import PROGRAMS
from redis_kit import server

ANY = next(iter(PROGRAMS.values()))


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The kit's data folder, moved to where nobody minds."""
    monkeypatch.setattr(server, "DATA", tmp_path)
    monkeypatch.setattr(server, "NOTE", tmp_path / "server.url")
    yield tmp_path
    server.stop()


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        yield stranger.getsockname()[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_started_server_is_noted_found_again_and_ended(own_folder):
    url = server.start(free_port())

    assert server.running() == url
    assert server.start(free_port()) == url, "it is not started twice"
    assert "Stopped" in server.stop()
    assert server.running() is None and not (own_folder / "server.url").exists()
    assert "No server" in server.stop()


def test_a_server_outlives_the_shell_that_started_it_and_its_ctrl_c(own_folder):
    server.start(free_port())
    [(pid, _)] = [server.lock_holder(path) for path in own_folder.iterdir() if path.is_dir()]

    assert os.getsid(pid) == pid != os.getsid(0)


def test_a_taken_port_is_worked_round_and_its_holder_is_left_alone(own_folder, taken_port, capfd):
    url = server.start(taken_port)

    assert url != f"redis://127.0.0.1:{taken_port}/0" and server.running() == url
    assert f"Port {taken_port} is taken" in capfd.readouterr().err


def test_a_folder_is_never_given_to_two_servers(tmp_path):
    first = server.launch(ANY, tmp_path, free_port())
    try:
        with pytest.raises(BlockingIOError):
            server.launch(ANY, tmp_path, free_port())
    finally:
        first.kill()
        first.wait()
    assert server.lock_holder(tmp_path) is None, "the lock dies with the server"


def test_a_note_about_a_dead_server_is_not_believed(own_folder):
    server.start(free_port())
    [(pid, _)] = [server.lock_holder(path) for path in own_folder.iterdir() if path.is_dir()]
    os.kill(pid, 9)
    os.waitpid(pid, 0)

    assert server.running() is None
    assert "gone already" in server.stop()


def test_a_server_that_does_not_start_shows_its_log_and_leaves_nothing(own_folder, monkeypatch):
    broken = own_folder / "broken.conf"
    broken.write_text("no-such-directive yes\n")
    monkeypatch.setattr(server, "CONFIG", broken)
    monkeypatch.setattr(server.launch, "__kwdefaults__", {"config": broken})

    with pytest.raises(server.ServerError, match="no-such-directive"):
        server.start(free_port())

    assert not (own_folder / "server.url").exists()


def test_an_interrupted_start_leaves_no_process(own_folder, monkeypatch):
    monkeypatch.setattr(server, "wait_until_ready", interrupted)

    with pytest.raises(KeyboardInterrupt):
        server.start(free_port())

    folders = [path for path in own_folder.iterdir() if path.is_dir()]
    assert folders and not any(map(server.lock_holder, folders))


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_server_older_than_6_2_is_no_server(monkeypatch, tmp_path):
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(server, "embedded", lambda: None)

    with pytest.raises(server.ServerError, match=r"6\.2 or later"):
        server.find_binary()


@pytest.mark.parametrize(
    "url, shown",
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        ("rediss://ann:p%40ss@h/2?ssl_ca_certs=ca.pem", "rediss://ann:***@h/2?ssl_ca_certs=ca.pem"),
        ("redis://h/0?password=secret", "redis://h/0?password=***"),
        ("redis://h/0?password=p@ss", "redis://h/0?password=***"),
        ("redis://:se://cret@h", "redis://:***@h"),
        ("redis://:s3c/re#t?@h/0", "redis://:***@h/0"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_password_is_left_out_of_what_is_shown(url, shown):
    assert server.safe_url(url) == shown


def test_the_command_line_answers():
    asked = subprocess.run(
        [sys.executable, "-m", "redis_kit.server", "free-port", "21999"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip

    assert asked.returncode == 0 and int(asked.stdout) >= 21999


def test_waiting_for_a_server_that_is_none_ends(taken_port):
    began = time.monotonic()
    with pytest.raises(server.ServerError, match="did not answer"):
        server.wait_until_ready(taken_port, seconds=0.3)

    assert time.monotonic() - began < 5
