"""run_load_test.sh and start_local.sh, called as a person does, in a copy of the kit."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from redis_kit import server
from tests.kit import ROOT

# They meet on port 6379.
pytestmark = pytest.mark.xdist_group("scripts")
QUICK = ("--rate", "0", "--events-per-collection", "100")


@pytest.fixture
def copy(tmp_path):
    """A fresh clone without environments and data; what it leaves running is ended."""
    folder = tmp_path / "a kit"
    shutil.copytree(
        ROOT,
        folder,
        ignore=shutil.ignore_patterns(".git", ".venv", "data", "__pycache__", ".*cache"),
    )
    (folder / "data").mkdir()
    yield folder
    subprocess.run([folder / "start_local.sh", "--stop"], env=environment(), capture_output=True)


def environment(**changes):
    """This Python's environment, no Docker, no conda, no uv."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
    return kept | {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable} | changes


def call(folder, script, *arguments, **changes):
    return subprocess.run(
        [folder / script, *arguments], env=environment(**changes), cwd=folder.parent,
        text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def running_servers(folder):
    return [path for path in (folder / "data").iterdir() if server.lock_holder(path)]


def stub(folder, name, text):
    path = folder / "stubs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"{path.parent}:/usr/bin:/bin"


# 1. run_load_test.sh -----------------------------------------------------------------


def test_one_command_does_all_six_steps_and_leaves_the_machine_as_it_was(copy):
    run = call(copy, "run_load_test.sh", *QUICK)

    assert run.returncode == 0, run.stdout + run.stderr
    for number, step in enumerate(
        ["check", "install", "server start", "server test", "load test", "results"], 1
    ):
        assert f"── {number}/6 {step}\n" in run.stdout
    assert "🎉 All Redis tests passed!" in run.stdout
    assert "✅ Exactly once: 500 of 500" in run.stdout
    assert "Three rows of" in run.stdout and "What next" in run.stdout
    assert (copy / "data/summary.json").exists()
    assert running_servers(copy) == [] and not (copy / "data/server.url").exists()


def test_with_6379_taken_it_says_who_has_it_and_uses_another_port(copy):
    with listening_on_6379():
        run = call(copy, "run_load_test.sh", *QUICK)

    assert run.returncode == 0, run.stdout + run.stderr
    assert "Port 6379 is taken by" in run.stderr


def test_a_kept_server_is_found_by_the_scripts_and_not_started_again(copy):
    first = call(copy, "run_load_test.sh", *QUICK, "--keep-server")
    assert first.returncode == 0 and len(running_servers(copy)) == 1, first.stderr
    plain = subprocess.run(
        [sys.executable, copy / "jetstream_load_test.py", *QUICK, "--data-dir", copy / "data"],
        env=environment(), text=True, capture_output=True,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr

    second = call(copy, "run_load_test.sh", *QUICK)

    assert second.returncode == 0 and "was running already" in second.stdout
    assert len(running_servers(copy)) == 1, "it was there before"


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_with_a_url_no_server_is_started(copy, any_server, how):
    flags = ("--redis-url", any_server.url) if how == "flag" else ()
    changes = {"REDIS_URL": any_server.url} if how == "environment" else {}
    run = call(copy, "run_load_test.sh", *QUICK, *flags, **changes)

    assert run.returncode == 0, run.stderr
    assert "none is started" in run.stdout and running_servers(copy) == []
    assert any_server.process.poll() is None


def test_a_step_that_fails_is_named_and_the_status_is_1(copy):
    run = call(copy, "run_load_test.sh", *QUICK, "--redis-url", "redis://127.0.0.1:1/0")

    assert run.returncode == 1
    assert 'Step "server test" failed' in run.stderr


def test_the_status_is_that_of_the_load_test(copy):
    run = call(copy, "run_load_test.sh", "--rate", "nan")

    assert run.returncode == 2 and "'nan' is not a number" in run.stderr
    assert "server start" not in run.stdout


@pytest.mark.parametrize("sent_to", ["the script", "its process group"])
@pytest.mark.parametrize("seconds", [0.3, 1.5, 5])
def test_ctrl_c_ends_cleanly_with_130_at_any_step(copy, sent_to, seconds):
    process = subprocess.Popen(
        [copy / "run_load_test.sh"], env=environment(), cwd=copy, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    time.sleep(seconds)
    (os.kill if sent_to == "the script" else os.killpg)(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 130, out
    assert "Traceback" not in out, out
    assert running_servers(copy) == [] and not (copy / "data/server.url").exists()


def test_help_explains_the_script_and_the_load_test(copy):
    asked = call(copy, "run_load_test.sh", "--help")

    assert asked.returncode == 0
    assert "--keep-server" in asked.stdout and "--events-per-collection" in asked.stdout
    assert not list((copy / "data").iterdir())


# 2. start_local.sh -------------------------------------------------------------------


def test_the_last_line_is_the_url_and_stop_ends_it(copy):
    started = call(copy, "start_local.sh")

    assert started.returncode == 0, started.stderr
    assert started.stdout.splitlines()[-1].startswith("REDIS_URL=redis://127.0.0.1:")
    assert call(copy, "start_local.sh", "--status").returncode == 0
    assert call(copy, "start_local.sh").stdout.splitlines()[-1] == started.stdout.splitlines()[-1]
    assert "Stopped" in call(copy, "start_local.sh", "--stop").stdout
    assert running_servers(copy) == []
    assert call(copy, "start_local.sh", "--status").returncode == 1


def test_an_unknown_argument_is_refused(copy):
    assert call(copy, "start_local.sh", "--halt").returncode == 1


# 3. Docker, by a stub ----------------------------------------------------------------


def test_without_an_engine_docker_is_no_failure(copy):
    path = stub(copy, "docker", 'echo "Cannot connect to the Docker daemon" >&2; exit 1')
    run = call(copy, "run_load_test.sh", *QUICK, PATH=path)

    assert run.returncode == 0, run.stderr
    assert "no engine" in run.stdout


def test_an_image_that_cannot_be_pulled_is_said_and_another_server_used(copy):
    path = stub(
        copy,
        "docker",
        'echo "$*" >>docker.calls\n'
        'case "$*" in info*) echo 27.0 ;; *version) ;; *up*) echo "no route" >&2; exit 1 ;; esac',
    )
    started = call(copy, "start_local.sh", PATH=path)

    assert started.returncode == 0, started.stderr
    assert "going on without Docker" in started.stdout
    assert "(process)" in started.stdout
    assert "compose down" in (copy / "docker.calls").read_text()


def test_a_container_is_started_on_a_free_port_as_the_user_and_taken_down_again(copy, any_server):
    """The stub's container is a server that is there already, on the port that it is given."""
    path = stub(
        copy,
        "docker",
        'echo "$* $REDIS_PORT $REDIS_UID" >>docker.calls\ncase "$*" in info*) echo 27.0 ;; esac',
    )
    started = call(copy, "start_local.sh", PATH=path, REDIS_PORT=str(any_server.port))
    stopped = call(copy, "start_local.sh", "--stop", PATH=path)

    assert started.stdout.splitlines()[-1] == f"REDIS_URL=redis://127.0.0.1:{any_server.port}/0"
    calls = (copy / "docker.calls").read_text()
    assert f"compose up -d redis {any_server.port} {os.getuid()}" in calls
    assert calls.splitlines()[-1].startswith("compose down")
    assert stopped.returncode == 0 and not (copy / "data/server.url").exists()


def test_a_container_that_runs_already_is_used_noted_and_left_alone(copy, any_server):
    path = stub(
        copy,
        "docker",
        'echo "$*" >>docker.calls\n'
        'case "$*" in info*) echo 27.0 ;; *ps*) echo abc ;; '
        f"*port*) echo 127.0.0.1:{any_server.port} ;; esac",
    )
    run = call(copy, "run_load_test.sh", *QUICK, PATH=path)

    assert run.returncode == 0, run.stderr
    assert f"127.0.0.1:{any_server.port}/0 was running already" in run.stdout
    calls = (copy / "docker.calls").read_text()
    assert "up -d" not in calls and "down" not in calls
    assert (copy / "data/server.url").read_text().splitlines()[1] == "container"


def test_a_stranger_where_the_container_used_to_be_is_not_used(copy, any_server):
    (copy / "data/server.url").write_text(f"{any_server.url}\ncontainer\n\n")

    started = call(copy, "start_local.sh")

    assert started.returncode == 0, started.stderr
    assert "(process)" in started.stdout
    assert str(any_server.port) not in started.stdout.splitlines()[-1]


@pytest.mark.parametrize("script", ["run_load_test.sh", "start_local.sh"])
def test_ctrl_c_while_the_container_starts_takes_it_down(copy, script):
    path = stub(
        copy,
        "docker",
        'echo "$*" >>docker.calls\n'
        'case "$*" in info*) echo engine 27.0 ;; *up*) exec sleep 30 ;; esac',
    )
    process = subprocess.Popen(
        [copy / script], env=environment(PATH=path), cwd=copy, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: "up -d" in read(copy / "docker.calls"))
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 130, out
    assert read(copy / "docker.calls").splitlines()[-1] == "compose down"


def read(path):
    return path.read_text() if path.exists() else ""


def wait_until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# 4. Two at once, and strangers --------------------------------------------------------


def test_a_second_script_does_not_stop_the_server_of_the_first(copy):
    first = subprocess.Popen(
        [copy / "run_load_test.sh", "--rate", "100", "--events-per-collection", "100"],
        env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_until(lambda: list(copy.glob("data/*/*/*.parquet")))
    second = call(copy, "run_load_test.sh", *QUICK)
    out, _ = first.communicate(timeout=60)

    assert second.returncode == 2 and "another run" in second.stderr, second.stdout
    assert first.returncode == 0 and "passes: 1" in out, out
    assert running_servers(copy) == []


def test_a_stranger_where_our_server_used_to_be_is_not_used(copy, any_server):
    call(copy, "start_local.sh")
    [folder] = running_servers(copy)
    os.kill(server.lock_holder(folder)[0], signal.SIGKILL)
    note = copy / "data/server.url"
    note.write_text(f"{any_server.url}\n{note.read_text().splitlines()[1]}\n\n")

    run = subprocess.run(
        [sys.executable, copy / "jetstream_load_test.py", *QUICK], env=environment(), cwd=copy,
        text=True, capture_output=True,
    )  # fmt: skip

    assert run.returncode == 2 and "no Redis server was named" in run.stderr


# 5. Python ---------------------------------------------------------------------------


def test_an_old_python_is_refused_in_one_line(copy):
    old = stub(copy, "python-old", "exit 1").split(":")[0] + "/python-old"
    run = call(copy, "start_local.sh", PYTHON=old)

    assert run.returncode == 1 and "3.11" in run.stderr


def test_the_conda_environment_is_used_where_there_is_one(copy):
    python = copy / "conda env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (copy / "conda-env").symlink_to(python.parent.parent)  # conda's list is split at blanks
    listed = f"bluesky-research * {copy.parent}/link/conda-env"
    (copy.parent / "link").symlink_to(copy)
    path = stub(copy, "conda", f'[ "$*" = "env list" ] && echo "{listed}"')

    run = call(copy, "start_local.sh", PATH=path, PYTHON="")

    assert run.returncode == 0, run.stderr
    assert "the conda environment bluesky-research" in run.stdout
    assert not (copy / ".venv").exists()


def test_a_venv_without_ensurepip_is_not_left_behind(copy):
    """Debian's python3 without python3-venv fails, and leaves a Python that cannot install."""
    path = stub(
        copy,
        "python3",
        f'[ "$2" = venv ] || exec "{sys.executable}" "$@"\n'
        'mkdir -p "$3/bin" && touch "$3/bin/python" && exit 1',
    )
    run = call(copy, "start_local.sh", PATH=path, PYTHON="")

    assert run.returncode == 1 and "python3-venv" in run.stderr
    assert not (copy / ".venv").exists()


def test_without_any_python_one_line_says_what_to_install(copy):
    tools = copy / "tools"
    tools.mkdir()
    for name in "bash env dirname sed awk cmp rm cp cat id mkdir".split():
        (tools / name).symlink_to(shutil.which(name))
    run = call(copy, "start_local.sh", PATH=str(tools), PYTHON="")

    assert run.returncode == 1
    assert run.stderr.count("\n") == 1 and "install Python 3.11" in run.stderr


def test_a_venv_that_is_not_ours_is_left_alone(copy):
    (copy / ".venv/bin").mkdir(parents=True)
    (copy / ".venv/notes.txt").write_text("mine")
    run = call(copy, "start_local.sh", PYTHON="", PATH=python_on_path(copy))

    assert run.returncode == 1 and "move it away" in run.stderr
    assert (copy / ".venv/notes.txt").exists()


def test_a_venv_that_an_interruption_left_unfinished_is_made_anew(copy):
    (copy / ".venv/bin").mkdir(parents=True)
    (copy / ".venv/.kit-unfinished").touch()
    call(copy, "start_local.sh", PYTHON="", PATH=python_on_path(copy, "no-packages"))

    assert (copy / ".venv/bin/python").exists()
    assert not (copy / ".venv/.kit-unfinished").exists()


def test_a_python_may_be_named_relative_to_where_one_is(copy):
    relative = os.path.relpath(sys.executable, copy.parent)
    run = call(copy, "start_local.sh", PYTHON=relative)

    assert run.returncode == 0, run.stderr


def python_on_path(copy, refuses="nothing"):
    """A python3 that makes environments, in which pip fails at once if asked to."""
    text = f'exec "{sys.executable}" "$@"'
    if refuses == "no-packages":
        text = (
            f'[ "$2" = venv ] || exec "{sys.executable}" "$@"\n'
            'mkdir -p "$3/bin" && ln -s /bin/false "$3/bin/python"'
        )
    return stub(copy, "python3", text)


def listening_on_6379():
    """Somebody on port 6379: this test, unless somebody is there already."""
    try:
        return socket.create_server(("127.0.0.1", 6379))
    except OSError:
        return socket.socket()
