"""Promises about the files themselves: who imports whom, how much there is to read, style."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import ROOT

KIT = sorted((ROOT / "redis_kit").glob("*.py"))
SCRIPTS = sorted(set(ROOT.glob("*.py")) - {ROOT / "conftest.py"})
EVENING = [
    "jetstream_load_test.py",
    "redis_kit/streams.py",
    "redis_kit/sink.py",
    "test_redis_server.py",
    "implementation_comparison.py",
]
SHELL = ["run_load_test.sh", "start_local.sh", "tests/run.sh", ".ci/run"]


def imports(path):
    """The dotted names of the modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", KIT, ids=lambda path: path.name)
def test_a_helper_imports_no_script(path):
    scripts = {script.stem for script in SCRIPTS}

    assert not imports(path) & scripts


@pytest.mark.parametrize("name", ["sink", "events", "ids", "schemas"])
def test_sink_and_events_know_nothing_of_redis(name):
    assert not imports(ROOT / f"redis_kit/{name}.py") & {"redis", "redis_kit.streams"}


@pytest.mark.parametrize("name", ["server", "preflight"])
def test_what_runs_before_an_installation_needs_nothing_installed(name):
    modules = imports(ROOT / f"redis_kit/{name}.py")

    assert {name.split(".")[0] for name in modules} <= set(sys.stdlib_module_names)


def test_only_settings_look_at_the_environment():
    users = [path.name for path in [*KIT, *SCRIPTS] if "os.environ" in path.read_text()]

    assert users == ["settings.py"]


def test_the_evening_path_can_be_read_in_an_evening():
    there = [ROOT / name for name in EVENING if (ROOT / name).exists()]

    assert sum(len(path.read_text().splitlines()) for path in there) < 1800


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_is_content(command):
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout


def test_shellcheck_is_content():
    program = Path(sys.executable).with_name("shellcheck")
    found = str(program) if program.exists() else shutil.which("shellcheck")
    assert found, "shellcheck comes with tests/requirements.txt"
    checked = subprocess.run([found, "-x", *SHELL], cwd=ROOT, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout


def test_shell_scripts_are_short():
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in SHELL}

    assert max(lengths.values()) < 200, lengths
