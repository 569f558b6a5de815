"""The commands for people."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli.features import app


def test_env_prints_exports_that_a_shell_can_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECOG_LAKE_URI", str(tmp_path / "a lake"))
    result = CliRunner().invoke(app, ["env", "--settings", "conf/sample.toml"])
    assert result.exit_code == 0
    assert "export PRECOG_FEAST_PROJECT=precog\n" in result.output
    assert f"export PRECOG_FEAST_HOME='{tmp_path}/a lake/feast'\n" in result.output
