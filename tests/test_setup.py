"""`make setup` on machines that lack something: it names what is wrong and what to do, before it changes anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
TOOLS = ["bash", "awk", "cat", "df", "dirname", "env", "grep", "head", "rm", "sed"]

Result = subprocess.CompletedProcess[str]


class Machine:
    """A clone, and a PATH that holds nothing but what the test puts there."""

    def __init__(self, root: Path) -> None:
        self.clone, self.bin = root / "clone", root / "bin"
        self.clone.mkdir()
        self.bin.mkdir()
        shutil.copytree(REPO / ".ci", self.clone / ".ci")
        for name in ("requirements.lock", "requirements.sample.lock", "pyproject.toml"):
            shutil.copy(REPO / name, self.clone)
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path, f"this test needs {tool}"
            (self.bin / tool).symlink_to(path)
        self.program("python3.11", f'exec "{sys.executable}" "$@"')
        self.program("java", "echo 'openjdk version \"17.0.15\" 2025-04-15' >&2")

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def remove(self, name: str) -> None:
        (self.bin / name).unlink()

    def setup(self, **env: str) -> Result:
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        return subprocess.run(
            [str(self.clone / ".ci" / "setup")],
            env={**kept, "PATH": str(self.bin), **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def assert_refused(machine: Machine, result: Result, *said: str) -> None:
    assert result.returncode == 1, result.stdout
    for text in said:
        assert text in result.stdout
    assert not (machine.clone / ".venv").exists()


def test_no_python(machine: Machine) -> None:
    machine.remove("python3.11")
    assert_refused(machine, machine.setup(), "no Python 3.11 found.", "apt-get install python3.11", "PYTHON=/path/to")


def test_the_named_python_is_not_there(machine: Machine) -> None:
    result = machine.setup(PYTHON="/nowhere/python3.11")
    assert_refused(machine, result, "no Python 3.11 found at PYTHON=/nowhere/python3.11")


def test_another_python(machine: Machine) -> None:
    machine.remove("python3.11")
    machine.program("python3", '[ -z "$2" ] || echo 3.12.1')
    assert_refused(machine, machine.setup(), "python3 is Python 3.12.1", "PYTHON=/path/to/python3.11 make setup")


def test_no_java(machine: Machine) -> None:
    machine.remove("java")
    assert_refused(machine, machine.setup(), "no Java found", "apt-get install openjdk-17-jre-headless", "JAVA_HOME")


@pytest.mark.parametrize(("printed", "named"), [("11.0.2", "Java 11"), ("1.8.0_292", "Java 8")])
def test_an_old_java(machine: Machine, printed: str, named: str) -> None:
    machine.program("java", f"echo 'openjdk version \"{printed}\" 2019-01-15' >&2")
    assert_refused(machine, machine.setup(), f"{named}, and Spark runs on Java 17 or newer")


def test_java_home_wins_over_the_path(machine: Machine) -> None:
    assert_refused(machine, machine.setup(JAVA_HOME="/nowhere/jdk"), "no Java found (tried /nowhere/jdk/bin/java)")


def test_too_little_disk(machine: Machine) -> None:
    machine.program("df", "printf 'Filesystem 1024-blocks Used Available\\n/dev/x 9 9 1048576\\n'")
    assert_refused(machine, machine.setup(), "only 1 GB free", "needs 4 GB")


def test_everything_that_is_wrong_is_said_at_once(machine: Machine) -> None:
    machine.remove("python3.11")
    machine.remove("java")
    assert_refused(machine, machine.setup(), "no Python 3.11 found", "no Java found")


def test_a_broken_download_says_that_a_second_run_goes_on(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    for _ in range(2):
        result = machine.setup(**offline)
        assert result.returncode == 1
        assert "could not install PyTorch; the reason stands above" in result.stdout
        assert "it goes on where it stopped" in result.stdout
        assert not (machine.clone / ".venv" / ".complete").exists()
